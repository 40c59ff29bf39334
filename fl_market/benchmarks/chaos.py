"""``fl-market bench chaos``: kill processes of deployed markets, and check that no credit is lost.

Markets of a few rounds run one after the other among three agents, on one ledger. At random
moments, every second time during a trade, ``SIGKILL`` goes to the ServerApp, to the SuperLink with
every process of its machine, or to a SuperNode, which is then started again. A failed run is
resumed. The ledger and the receipts are checked after every kill.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fl_market.deployment.processes import Deployment
from fl_market.errors import MarketError
from fl_market.ledger import Deal, DealState, Ledger, read_receipts
from fl_market.naming import agent_name
from fl_market.reports.table import summary_table
from fl_market.run_folder import CONFIGURATION, LEDGER, RESULTS, claim_file, write_json
from fl_market.seeds import numpy_generator

NODES = ("north", "south", "west")
ROUNDS = 4
OPTIONS = {
    "agents": len(NODES),
    "partition": "dirichlet(0.5)",
    "strategy": "market-priced",
    "num-server-rounds": ROUNDS,
    "first-round": 2,
    "learning-rate": 0.1,
    "bind-accounts": True,
    "reply-timeout": 120.0,
    "connect-timeout": 240.0,
}
OWN_OPTIONS = 'prior="exponential(1000)"'
TARGETS = ("ServerApp", "SuperLink", "SuperNode")
PAUSE = (5.0, 30.0)
"""Shortest and longest pause, in seconds, before a kill that does not wait for a trade."""
TRADE, NO_TRADE = (0.0, 30.0), 180.0
"""Shortest and longest pause between a trade and a kill, and the longest wait for a trade."""
POLL_SECONDS, STATUS_SECONDS = 1.0, 12.0
PATIENCE = 900.0
"""Seconds without a kill within which a run must end."""

Report = Callable[[str], None]


@dataclass
class Outcome:
    """The outcome of a chaos run.

    Attributes
    ----------
    kills
        Target -> number of kills.
    markets
        Number of markets that finished.
    resumed
        Number of resumes.
    trades
        Number of kills after a trade had begun.
    deals
        State -> number of deals.
    problems
        Failed checks, a sentence each.
    """

    kills: Counter[str] = field(default_factory=Counter)
    markets: int = 0
    resumed: int = 0
    trades: int = 0
    deals: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def chaos(out_dir: str, *, kills: int = 50, seed: int = 0, overwrite: bool = False, report: Report = print) -> str:
    """Run markets until they survived a number of kills; write ``chaos.json``, return a table.

    Parameters
    ----------
    out_dir
        Folder of the deployment and the report.
    kills
        Number of kills.
    seed
        Decides the targets and the moments.
    overwrite
        Whether an earlier report may be overwritten.
    report
        Called with a line for each event.

    Raises
    ------
    MarketError
        If no market can be deployed on this machine, or a run neither ends nor can be resumed.
    """
    folder = claim_file(Path(out_dir), "chaos.json", overwrite).absolute()
    database = folder / f"ledger-{time.time_ns()}.db"
    work = folder / f"deployment-{time.time_ns()}"
    started = time.monotonic()
    with Deployment(
        work, dict.fromkeys(NODES, OWN_OPTIONS), environment={LEDGER: f"sqlite:///{database}"}
    ) as deployment:
        outcome = _Chaos(deployment, database, numpy_generator(seed, "chaos"), report).run(kills)
    with Ledger.open_existing(f"sqlite:///{database}") as ledger:
        outcome.deals.update(str(state) for _, state in ledger.deals())
    document = {
        "kills": dict(outcome.kills),
        "markets": outcome.markets,
        "resumed": outcome.resumed,
        "kills after a trade had begun": outcome.trades,
        "deals": dict(outcome.deals),
        "seconds": time.monotonic() - started,
        "problems": outcome.problems,
    }
    write_json(folder / "chaos.json", document)
    rows = [(f"kills of a {target}", str(outcome.kills[target])) for target in TARGETS]
    rows += [("markets finished", str(outcome.markets)), ("resumes", str(outcome.resumed))]
    rows += [(f"deals {state}", str(count)) for state, count in sorted(outcome.deals.items())]
    rows += [("failed checks", "\n".join(outcome.problems) or "none")]
    return summary_table(f"{sum(outcome.kills.values())} kills in {document['seconds']:.0f} s", ("", ""), rows)


class _Chaos:
    def __init__(self, deployment: Deployment, database: Path, dice: np.random.Generator, report: Report) -> None:
        self._deployment, self._database, self._dice, self._report = deployment, database, dice, report
        self._outcome = Outcome()
        self._began = time.monotonic()
        self._wait_for_trade, self._due, self._size, self._turn = False, 0.0, 0, 0

    def run(self, kills: int) -> Outcome:
        """Run markets until the number of kills is reached and the last market has ended."""
        number = 0
        while sum(self._outcome.kills.values()) < kills:
            number += 1
            self._run_market(self._deployment.folder / f"market-{number}", number, kills)
        return self._outcome

    def _run_market(self, folder: Path, number: int, kills: int) -> None:
        options = OPTIONS | {"out-dir": str(folder), "seed": number}
        self._patiently(lambda: self._deployment.submit(options))
        self._note(f"market {number} began")
        self._plan()
        quiet_since = asked = time.monotonic()
        while not (folder / RESULTS).exists():
            time.sleep(POLL_SECONDS)
            self._deployment.supervise()
            if sum(self._outcome.kills.values()) < kills and self._is_due():
                self._kill()
                self._plan()
                quiet_since = time.monotonic()
            if time.monotonic() - asked < STATUS_SECONDS:
                continue
            asked = time.monotonic()
            if self._ended() and not (folder / RESULTS).exists():
                if (folder / CONFIGURATION).exists():  # else it had not begun
                    options["resume"] = str(folder)
                self._patiently(lambda: self._deployment.submit(options))
                self._outcome.resumed += 1
                self._note(f"market {number} resumed")
            if time.monotonic() - quiet_since > PATIENCE:
                raise MarketError(f"market {number} has not ended {PATIENCE:.0f} s after the last kill")
        self._outcome.markets += 1
        self._note(f"market {number} ended")
        self._check(f"after market {number}", finished=True)

    def _plan(self) -> None:
        """Decide the moment of the next kill: after a pause, or some time after the next trade."""
        now = time.monotonic()
        self._turn += 1
        self._wait_for_trade = self._turn % 2 == 0
        self._size = self._journal_size()
        self._due = now + (NO_TRADE if self._wait_for_trade else self._dice.uniform(*PAUSE))

    def _is_due(self) -> bool:
        if self._wait_for_trade and self._journal_size() > self._size:
            self._wait_for_trade = False
            self._due = time.monotonic() + self._dice.uniform(*TRADE)
            self._outcome.trades += 1
        return time.monotonic() >= self._due

    def _journal_size(self) -> int:
        try:
            with Ledger.open_existing(f"sqlite:///{self._database}") as ledger:
                return ledger.position()[0]
        except MarketError:  # no ledger yet
            return 0

    def _kill(self) -> None:
        target = str(self._dice.choice(TARGETS))
        if target == "ServerApp":
            if not self._deployment.kill(self._deployment.link, "flwr-serverapp"):
                return  # none is running at the moment
        elif target == "SuperLink":
            self._deployment.kill(self._deployment.link)
            self._deployment.start_superlink()
        else:
            node = str(self._dice.choice(NODES))
            self._deployment.kill(self._deployment.folder / node)
            self._deployment.start_node(node)
        self._outcome.kills[target] += 1
        count = sum(self._outcome.kills.values())
        self._note(f"kill {count}: a {target}")
        self._check(f"after kill {count}", finished=False)

    def _ended(self) -> bool:
        try:
            return self._deployment.last_status().startswith("finished")
        except MarketError:
            return False

    def _patiently(self, call: Callable[[], None]) -> None:
        """Call, and repeat the call while the SuperLink is starting."""
        for attempt in range(5):
            try:
                call()
                break
            except MarketError:
                if attempt == 4:
                    raise
                time.sleep(5)

    def _check(self, when: str, finished: bool) -> None:
        folders = {
            agent_name(index): self._deployment.folder / node / "agent" / agent_name(index)
            for index, node in enumerate(NODES)
        }
        for problem in market_problems(self._database, folders, finished):
            self._outcome.problems.append(f"{when}: {problem}")
            self._note(f"{when}: {problem}")

    def _note(self, line: str) -> None:
        self._report(f"{time.monotonic() - self._began:6.0f} s: {line}")


def market_problems(database: Path, agents: Mapping[str, Path], finished: bool) -> Iterator[str]:
    """Yield each problem of a market's books as a sentence.

    Parameters
    ----------
    database
        The ledger's file.
    agents
        Name of each agent -> folder of its receipts.
    finished
        Whether the market has ended. Then no deal may be open, each payment needs a receipt of the
        delivery, and each receipt a payment or a refund.
    """
    if not database.exists():
        return
    try:
        ledger = Ledger.open_existing(f"sqlite:///{database}")
    except MarketError:
        if finished:
            raise
        return  # its process was killed before it created the tables
    with ledger:
        yield from ledger.verify()
        deals = ledger.deals()
    if finished:
        for deal, state in deals:
            if state.open:
                yield f"the deal {deal.id} is still open: {state}"
        for name, folder in agents.items():
            yield from _receipt_problems(name, folder / "receipts.jsonl", deals)


def _receipt_problems(name: str, journal: Path, deals: Sequence[tuple[Deal, DealState]]) -> Iterator[str]:
    receipts = Counter(
        (entry["round"], entry["price"])
        for entry in (read_receipts(journal) if journal.exists() else [])
        if entry["side"] == "bought"
    )
    paid: Counter[tuple[int, int]] = Counter()
    refunded: Counter[tuple[int, int]] = Counter()
    for deal, state in deals:
        if deal.buyer == name:
            (paid if state.paid else refunded)[deal.round, deal.price] += 1
    for (number, price), count in (paid - receipts).items():
        yield f"{name} paid {price} in round {number} without a receipt of the delivery, {count} times"
    for (number, price), count in (receipts - paid - refunded).items():
        yield f"{name} received a purchase at {price} in round {number} without payment or refund, {count} times"
