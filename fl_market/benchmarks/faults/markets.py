"""One market with crashes and lost messages, from its first round to its books."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch
from flwr.app import ArrayRecord
from torch import nn

from clients.agent_data import load_agent_data
from clients.agent_disk import RECEIPTS
from clients.agent_state import AgentState
from clients.client_app import app
from fl_market.benchmarks.faults.crashes import CrashError, LineWatch
from fl_market.benchmarks.faults.disks import LEDGER, Disks, Tree
from fl_market.benchmarks.faults.network import Clock, Network
from fl_market.broker import Broker, Terms
from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.files import create_folder
from fl_market.gains import Certificate
from fl_market.ledger import Deal, DealState, Ledger, Signer, heads_in, read_receipts, reconcile, rewritten
from fl_market.market import settlement
from fl_market.market.bargain import Bargain
from fl_market.market.identifiers import deal_id
from fl_market.market.round import TradingRound
from fl_market.market.trials import Trial
from fl_market.naming import agent_name
from fl_market.parameters import StateDict, digest
from fl_market.permutation import PermutationSpec, derive_spec
from fl_market.seeds import numpy_generator
from strategies.checkpoints import Checkpoints
from strategies.market import ParameterMarket
from strategies.patience import PatientGrid

AGENTS = 3
ROUNDS = 5
"""Rounds with trade; a last one without faults lets all agents catch up."""
BUNDLES = (0, 1, 1, 2, 2)
"""Numbers of models that a buyer buys in a round, all equally likely."""
CRASHES = 3
"""Greatest number of crashes of a market."""
STEPS, LINES = 6, {"broker": 1000, "agent": 150}
"""Steps of a round, from message to message, within which the next crash comes, and about the lines
of a step. Each side has some more, so that some markets have fewer crashes."""
ENDOWMENT = 1_000_000
SECONDS = 3.0
"""Longest wait for a reply, of the simulated clock."""
CERTIFIED = Certificate(0.5, 0.1, 0.95, 1.0, 0.5, 100)
MEMORY = Path("/dev/shm")  # noqa: S108 - the folder made in it is this process' own
"""A file system in memory for the simulated disks; without it, the default folder is used."""
RUN_CONFIG: dict[str, bool | int | float | str] = {
    "task": f"{Path(__file__).with_name('task.py')}:smallest",
    "agents": AGENTS,
    "strategy": "market-priced",
    "num-server-rounds": 1000,
    "test-every": 1000,
    "device": "cpu",
    "precision": "float32",
}


@dataclass(frozen=True)
class Play:
    """The outcome of one market.

    Attributes
    ----------
    seed
        Its seed.
    crashes
        Number of crashed machines.
    settled, ended
        Number of deals that were paid, and of those that were refunded or void.
    problems
        All that is wrong with its books, a sentence each.
    """

    seed: int
    crashes: int
    settled: int
    ended: int
    problems: tuple[str, ...]


def play(seed: int, rounds: int = ROUNDS) -> Play:
    """Play one market with some rounds of trade, and check its books.

    Either the buyer and the seller of each deal both have what they agreed on, or neither has
    anything: a settled deal has its two receipts, and its buyer came to hold the model; nobody ever
    held the model of another one.
    """
    load_agent_data.cache_clear()  # the lines of a market must not depend on those played before
    with TemporaryDirectory(prefix="fl-market-", dir=MEMORY if MEMORY.is_dir() else None) as folder, _quiet():
        return _Stage(seed, Path(folder), rounds).play()


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@lru_cache(maxsize=1)
def _spec() -> PermutationSpec:
    return derive_spec(nn.Linear(2, 2), torch.zeros(2, 2))


def _broker(ledger: Ledger, run: str) -> Broker:
    data: Batch = (torch.zeros(2, 2), torch.zeros(2, dtype=torch.long))
    return Broker(
        nn.Linear(2, 2),
        nn.CrossEntropyLoss(reduction="none"),
        data,
        data,
        ledger=ledger,
        terms=Terms(pricing="nash", endowment=ENDOWMENT / 1_000_000),
        run=run,
        spec=_spec(),
    )


class _ScriptedMarket(ParameterMarket):
    """A market in which the seed decides who buys from whom; all else is as always."""

    stage: "_Stage"

    def exchange(self, market_round: int, models: Mapping[str, StateDict]) -> Bargain:
        trading = self.broker.open_round(models, market_round, trades=False)
        return self.stage.bargain(trading)


@dataclass
class _Stage:
    """Machines, network and script of one market."""

    seed: int
    folder: Path
    rounds: int
    promised: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Deal -> its buyer, and the SHA-256 of the model that it pays for."""
    held: set[tuple[str, str]] = field(default_factory=set)
    """Agent and SHA-256 of each model that it took over."""
    crashes: int = 0
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = numpy_generator(self.seed, "faults")
        self.clock = Clock()
        self.disks = Disks(self.dice)
        self.roots = {name: self.folder / name for name in map(agent_name, range(AGENTS))}
        self.broker_root = self.folder / "broker"
        self.network = Network(
            app,
            [{"agent-dir": str(root / "agent")} for root in self.roots.values()],
            RUN_CONFIG | {"seed": self.seed},
            dice=self.dice,
            clock=self.clock,
            begun=self._begun,
            crashed=self._agent_crashed,
        )
        self._lines = LineWatch(self._at_line, self._hits_here)
        self._signer, self._prices = Signer(), count(1)
        self._survivors: dict[Path, Tree] = {}
        self._plan()

    def play(self) -> Play:
        """Run the market until it ends, then once more without faults, and check its books."""
        with self.disks.watched(), self._takeovers_noted():
            for root in (*self.roots.values(), self.broker_root):
                self.disks.restore(_made(root), {})
            try:
                lives = count(1)
                while self._crashes_in(next(lives), self.rounds):
                    self._survivors = {}
                self.network.faulty = False
                self._target = ""
                self._live(next(lives), self.rounds + 1)
            except MarketError as error:
                self.problems.append(f"the market cannot go on: {error}")
            return self._checked()

    # -- the script

    def bargain(self, trading: TradingRound) -> Bargain:
        """Let agents buy at random, up to two models each; the last round is for catching up."""
        deals = (
            {buyer: self._bundle(trading, buyer) for buyer in trading.agents} if trading.number <= self.rounds else {}
        )
        return Bargain(trading, {buyer: some for buyer, some in deals.items() if some})

    def _bundle(self, trading: TradingRound, buyer: str) -> tuple[tuple[Deal, Trial], ...]:
        sellers = [name for name in trading.agents if name != buyer]
        bought: list[tuple[Deal, Trial]] = []
        merged = trading.state.models[buyer]
        for seller in sellers[: int(self.dice.choice(BUNDLES))]:
            price = next(self._prices)
            merged = {  # no two purchases are of the same model, not even in a round that is repeated
                name: (own + trading.state.models[seller][name]) / 2 + price / 1000 for name, own in merged.items()
            }
            deal = Deal(
                deal_id(trading.run, trading.number, buyer, seller), trading.number, buyer, seller,
                bid=price, ask=price, price=price, gain=0.5, lower_bound=0.1, alpha=0.5,
            )  # fmt: skip
            if settlement.escrow(trading.ledger, deal):
                after = tuple(trial.seller for _, trial in bought)
                bought.append((deal, Trial(buyer, seller, "all", 0.5, CERTIFIED, merged, after)))
        self.promised |= {deal.id: (buyer, digest(merged)) for deal, _ in bought}
        return tuple(bought)

    # -- crashes

    def _plan(self) -> None:
        """Decide the place of the next crash, if one is to come: a step of a side, and a line."""
        self._target = str(self.dice.choice(["broker", "agent", "all"])) if self.crashes < CRASHES else ""
        side = "agent" if self._target == "agent" else "broker"
        self._steps_left = int(self.dice.integers(self.rounds * STEPS))
        self._lines_left = int(self.dice.integers(1, LINES[side]))

    def _hits_here(self) -> bool:
        """Return whether the next crash is to come on the side that runs at this moment."""
        return bool(self._target) and (self._target == "agent") == (self.network.answering is not None)

    def _begun(self) -> None:
        """Count the steps; the lines of most of them need not be watched."""
        if self._hits_here():
            if self._steps_left == 0:
                self._lines.start()
            self._steps_left -= 1

    def _at_line(self) -> None:
        if self._hits_here():
            self._lines_left -= 1
            if self._lines_left == 0:
                self._crash()

    def _crash(self) -> None:
        """Note what the crash leaves on the disks, before the code on its way out writes more."""
        agent = self.network.answering
        if agent is not None:
            hit = [self.roots[agent_name(agent)]]
        else:
            hit = [self.broker_root, *(self.roots.values() if self._target == "all" else ())]
        self._survivors = {root: self.disks.survivors(root) for root in hit}
        raise CrashError

    def _agent_crashed(self, agent: int) -> None:
        self.network.forget(agent)
        self._restart_machines()

    def _restart_machines(self) -> None:
        for root, tree in self._survivors.items():
            self.crashes += 1
            self.disks.restore(root, tree)
        self._plan()

    def _crashes_in(self, life: int, rounds: int) -> bool:
        """Run the broker; return whether it crashed."""
        try:
            self._begun()
            self._live(life, rounds)
        except CrashError:
            for agent, name in enumerate(self.roots):
                if self.roots[name] in self._survivors:
                    self.network.forget(agent)
            self._restart_machines()
            return True
        finally:
            self._lines.stop()
        return False

    def _live(self, life: int, rounds: int) -> None:
        """Run the broker's process, which resumes the market if there is one."""
        books = self.broker_root / "books"
        create_folder(books)
        with closing(Ledger.open(f"sqlite:///{books / LEDGER}")) as ledger:
            market = _ScriptedMarket(
                _broker(ledger, f"market~{life}"),
                agents=AGENTS,
                first_round=1,
                reply_timeout=SECONDS,
                checkpoints=(checkpoints := Checkpoints(self.broker_root / "checkpoints")),
                signer=self._signer,
            )
            market.stage = self
            if (checkpoint := checkpoints.last()) is not None:
                market.resume(checkpoint)
            grid = PatientGrid(self.network, quorum=1.0, short_deadline=1.0, now=self.clock.now, pause=self.clock.pause)
            start = ArrayRecord(nn.Linear(2, 2).state_dict())
            market.start(grid, start, rounds - market.finished, timeout=SECONDS)

    # -- checks

    @contextmanager
    def _takeovers_noted(self) -> Iterator[None]:
        take_over = AgentState.replace_model

        def noted(state: AgentState, model: StateDict) -> None:
            take_over(state, model)
            assert self.network.answering is not None
            self.held.add((agent_name(self.network.answering), digest(model)))

        with mock.patch.object(AgentState, "replace_model", noted):
            yield

    def _checked(self) -> Play:
        with closing(Ledger.open_existing(f"sqlite:///{self.broker_root / 'books' / LEDGER}")) as ledger:
            self.problems += ledger.verify()
            deals, hashes = ledger.deals(), ledger.hashes()
        for deal, state in deals:
            self.problems += self._problems_of(deal, state)
        for name, root in self.roots.items():
            journal = root / "agent" / name / RECEIPTS
            receipts = read_receipts(journal) if journal.exists() else []
            self.problems += reconcile(name, deals, receipts)
            self.problems += rewritten(heads_in(receipts), hashes)
        settled = sum(state.paid for _, state in deals)
        return Play(self.seed, self.crashes, settled, len(deals) - settled, tuple(self.problems))

    def _problems_of(self, deal: Deal, state: DealState) -> Iterator[str]:
        held = self.promised.get(deal.id) in self.held
        if state.open:
            yield f"the deal {deal.id} is still {state}"
        elif state.paid and not held:
            yield f"{deal.buyer} paid for the deal {deal.id}, and never held the model"
        elif held and not state.paid:
            yield f"{deal.buyer} held the model of the deal {deal.id}, which is {state}"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
