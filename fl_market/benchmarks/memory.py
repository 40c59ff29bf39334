"""``fl-market bench memory``: the broker's memory, with many agents and with large models.

The broker is the strategy itself, with checkpoints. The agents are a stand-in that makes its model
anew for each message, so that this process holds the broker's memory and no agent's. Counted is
memory of the process's own (``RssAnon`` and ``RssShmem`` of Linux): pages of model files are in
memory as long as nobody else needs it.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from fl_market.broker import Broker, Terms
from fl_market.data import Batch
from fl_market.digests import digest_of_bytes
from fl_market.errors import MarketError
from fl_market.ledger import Ledger
from fl_market.naming import agent_name
from fl_market.parameters import StateDict, digest
from fl_market.pricing import micro_credits
from fl_market.protocol import Ask, Bid, Offer, QuoteRequest, from_columns, to_columns
from fl_market.reports.table import summary_table
from fl_market.run_folder import claim_file, write_json
from fl_market.runner.inline_grid import InlineGrid
from fl_market.runner.orphans import end_with
from strategies.checkpoints import Checkpoints
from strategies.history import History
from strategies.market import ParameterMarket

LAYERS = 10
"""Layers of the stand-in's perceptron, all but the last one square."""
CLASSES, KNOWN = 10, 6
"""Classes, and those that an agent's model can tell apart."""
SAMPLES = 200
"""Samples of each of the broker's splits."""
STEPS = 2
"""Gradient steps of the service: their memory does not depend on their number."""
PAUSE = 0.005
"""Seconds between two looks at the process's memory."""
WARM = 10_000
"""Parameters of the models of a first round that is not measured."""
MEGABYTE = 2**20
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Case:
    """A market whose broker's memory is measured, of one round.

    Attributes
    ----------
    agents, parameters
        Number of agents, and of parameters of each one's model, approximately.
    candidates
        Sellers that are tried for each buyer.
    service
        Whether the broker takes its gradient steps.
    """

    agents: int
    parameters: int
    candidates: int = 1
    service: bool = True

    @property
    def width(self) -> int:
        """Units of each layer."""
        return max(CLASSES, math.isqrt(self.parameters // (LAYERS - 1)))

    def build(self) -> nn.Module:
        """Return the perceptron."""
        square = [part for _ in range(LAYERS - 1) for part in (nn.Linear(self.width, self.width), nn.ReLU())]
        return nn.Sequential(*square, nn.Linear(self.width, CLASSES))


@dataclass(frozen=True)
class Peak:
    """The broker's memory.

    Attributes
    ----------
    case
        The market.
    model
        Bytes of one model.
    start, highest
        Bytes of memory of the process's own before the round, and at most during it.
    deals
        Number of settled deals.
    seconds
        Of the round.
    """

    case: Case
    model: int
    start: int
    highest: int
    deals: int
    seconds: float

    @property
    def copies(self) -> float:
        """Memory above the start, in models."""
        return (self.highest - self.start) / self.model


CASES: tuple[Case, ...] = (
    Case(agents=25, parameters=2_500_000),
    Case(agents=100, parameters=2_500_000),
    Case(agents=2, parameters=50_000_000),
    Case(agents=2, parameters=50_000_000, service=False),
)


def memory(
    out_dir: str,
    *,
    cases: Sequence[Case] = CASES,
    overwrite: bool = False,
    report: Callable[[str], None] = print,
) -> str:
    """Measure the broker's memory in some markets, each in a process of its own.

    Writes ``memory.json``.

    Parameters
    ----------
    out_dir
        Folder of the file, and of the models meanwhile.
    cases
        The markets.
    overwrite
        Whether an earlier file may be overwritten.
    report
        Called with a line for each market.

    Raises
    ------
    MarketError
        If the file exists and may not be overwritten, a round fails, or this is not Linux.
    """
    folder = claim_file(Path(out_dir), "memory.json", overwrite)
    _own_memory()
    peaks = []
    for case in cases:
        with ProcessPoolExecutor(1, get_context("spawn"), end_with, (os.getpid(),)) as process:
            peaks.append(process.submit(peak_of, case, folder).result())
        report(_line(peaks[-1]))
    write_json(
        folder / "memory.json", {"peaks": [{**asdict(peak), "copies of the model": peak.copies} for peak in peaks]}
    )
    return summary_table("The broker's memory in a round", ("", "above its start"), [_row(peak) for peak in peaks])


def peak_of(case: Case, folder: Path) -> Peak:
    """Play one round of a market, and return the broker's memory.

    Raises
    ------
    MarketError
        If an agent does not finish the round.
    """
    from fl_market.runner.environment import library_logs, set_environment

    set_environment()
    if case.parameters > WARM:
        peak_of(Case(2, WARM), folder)  # what this process imports is no part of the round
    with TemporaryDirectory(dir=folder) as models, Ledger.open() as ledger, library_logs(shown=False):
        checkpoints, history = Checkpoints(Path(models)), History("market", 1)
        terms = Terms(
            candidates=case.candidates,
            fit_steps=STEPS,
            service="tune" if case.service else "none",
            pricing="nash",
            novelty=0.0,  # untrained layers look alike
        )
        fit, certify = _data(case, 0), _data(case, 1)
        criterion = nn.CrossEntropyLoss(reduction="none")
        broker = Broker(case.build(), criterion, fit, certify, ledger=ledger, terms=terms, keep=checkpoints.models.keep)
        size = sum(tensor.numel() * tensor.element_size() for tensor in broker.template("A").values())
        strategy = ParameterMarket(
            broker, agents=case.agents, first_round=1, history=history, checkpoints=checkpoints, reply_timeout=1e6
        )
        grid, began = InlineGrid(_agents(case), case.agents, {}), perf_counter()
        with _highest() as memory:
            strategy.start(grid, ArrayRecord(), num_rounds=1)
        if history.failed:
            raise MarketError(f"an agent finished no round: {next(iter(history.reasons.values()))}")
        return Peak(case, size, memory.start, memory.highest, history.deals, perf_counter() - began)


@dataclass
class _Memory:
    start: int
    highest: int = 0


@contextmanager
def _highest() -> Iterator[_Memory]:
    """Look at the memory of this process again and again while the block runs."""
    memory, over = _Memory(_own_memory()), threading.Event()

    def look() -> None:
        while not over.wait(PAUSE):
            memory.highest = max(memory.highest, _own_memory())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


def _own_memory() -> int:
    """Return the bytes of memory that are this process's own."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise MarketError("bench memory needs Linux, which tells a process's own memory in /proc") from error
    parts = dict(line.split(":", 1) for line in lines)
    return sum(int(parts[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


def _data(case: Case, seed: int) -> Batch:
    """Return samples whose class is one large input."""
    dice = torch.Generator().manual_seed(seed)
    inputs, targets = 0.3 * torch.randn(SAMPLES, case.width, generator=dice), torch.arange(SAMPLES) % CLASSES
    inputs[torch.arange(SAMPLES), targets] += 3
    return inputs, targets


def _model(case: Case, index: int) -> StateDict:
    """Return an agent's model: it passes on the inputs of the classes that it knows."""
    dice = torch.Generator().manual_seed(index)
    known = [(index + number) % CLASSES for number in range(KNOWN)]
    state: dict[str, Tensor] = {}
    for layer in range(LAYERS):
        units = case.width if layer < LAYERS - 1 else CLASSES
        weight = torch.randn(units, case.width, generator=dice).mul_(0.1 / case.width**0.5)
        weight[known, known] += 1
        state |= {f"{2 * layer}.weight": weight, f"{2 * layer}.bias": torch.zeros(units)}
    return state


def _agents(case: Case) -> ClientApp:
    """Return agents that make their models anew, and buy and sell whatever they can."""
    app = ClientApp()

    def answer(message: Message, context: Context, **records: ArrayRecord | ConfigRecord | MetricRecord) -> Message:
        name = ConfigRecord({"name": agent_name(int(context.node_config["partition-id"]))})
        return Message(RecordDict({"agent": name, **records}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        state = _model(case, int(context.node_config["partition-id"]))
        return answer(
            message,
            context,
            arrays=ArrayRecord(dict(state)),
            metrics=MetricRecord({"num-examples": 1, "train-loss": 0.0}),
            acknowledgement=ConfigRecord({"model-digest": digest(state)}),
        )

    @app.query("offer")
    def bid(message: Message, context: Context) -> Message:
        offers = from_columns(Offer, dict(message.content.config_records["offers"]))
        best = max(offers, key=lambda offer: offer.gain)
        bids = [Bid(best.id, micro_credits(best.gain))]
        return answer(message, context, bids=ConfigRecord(to_columns(bids)))

    @app.query("quote")
    def ask(message: Message, context: Context) -> Message:
        requests = from_columns(QuoteRequest, dict(message.content.config_records["quotes"]))
        asks = [Ask(request.id, 0) for request in requests]
        return answer(message, context, asks=ConfigRecord(to_columns(asks)))

    @app.query("delivery")
    def acknowledge(message: Message, context: Context) -> Message:
        sealed = {name: array.numpy() for name, array in message.content.array_records["sealed"].items()}
        return answer(message, context, acknowledgement=ConfigRecord({"sealed-digest": digest_of_bytes(sealed)}))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        held = str(message.content.config_records["config"]["model-digest"])
        return answer(message, context, acknowledgement=ConfigRecord({"model-digest": held}))

    return app


def _line(peak: Peak) -> str:
    name, found = _row(peak)
    return f"{name}: {found} in {peak.seconds:.0f} s"


def _row(peak: Peak) -> tuple[str, str]:
    case, above = peak.case, (peak.highest - peak.start) / MEGABYTE
    service = "" if case.service else ", no service"
    name = f"{case.agents} agents, models of {peak.model / MEGABYTE:.0f} MB{service}, {peak.deals} deals"
    return name, f"{above:.0f} MB, {peak.copies:.1f} models"
