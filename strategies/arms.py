"""The arms of a comparison: which strategy, from which initialisation, exchanging models from which round on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flwr.serverapp.strategy import Strategy

from fl_market.broker import Broker, Terms
from fl_market.configuration import PUBLISHED_FIRST_ROUND, Configuration
from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.gains import ModelLoss, split_in_halves
from fl_market.ledger import Ledger
from fl_market.run_folder import checkpoints_path
from fl_market.tasks import Task
from strategies.baselines import (
    Ensemble,
    FedALA,
    LateFedAvg,
    Pooled,
    RecordedFedAdam,
    RecordedFedAvg,
    RecordedFedProx,
    TunedFedAvg,
)
from strategies.checkpoints import Checkpoints
from strategies.fedfomo import FedFomo
from strategies.history import History
from strategies.market import ParameterMarket


@dataclass(frozen=True)
class Setting:
    """What an arm is built from."""

    configuration: Configuration
    task: Task
    history: History
    ledger: Ledger

    @property
    def splits(self) -> tuple[Batch, Batch]:
        """The broker's fit and certify splits."""
        return split_in_halves(self.task.broker, self.configuration.seed)


@dataclass(frozen=True)
class Arm:
    """One row of a comparison.

    Attributes
    ----------
    title
        For people.
    build
        Makes the strategy.
    initialisation
        ``"common"`` or ``"independent"``; None where ``common-init`` decides.
    exchanges_from
        (configuration) to the first round in which models are exchanged, None for never.
    """

    title: str
    build: Callable[[Setting], Strategy]
    initialisation: str | None = None
    exchanges_from: Callable[[Configuration], int | None] = lambda options: options.trading_starts

    def initialisation_in(self, configuration: Configuration) -> str:
        """Return from what the agents start."""
        return self.initialisation or ("common" if configuration.common_init else "independent")


def _market(aligned: bool = True, granularity: str = "model", priced: bool = False) -> Callable[[Setting], Strategy]:
    def build(setting: Setting) -> Strategy:
        options = setting.configuration
        terms = Terms(
            alignment="weights" if aligned else "none",
            granularity=granularity,
            layers=options.layers,
            layer_budget=options.layer_budget,
            max_purchases=options.max_purchases,
            repair=options.repair,
            pricing=options.pricing if priced else "free",
            disclosure=options.disclosure,
            novelty=options.novelty,
            gain=options.gain,
            confidence=options.confidence,
            fit_steps=options.fit_steps,
            fit_learning_rate=options.fit_learning_rate,
            fit_batch_size=options.fit_batch_size,
            class_tolerance=options.class_tolerance,
            unpaid_deliveries=options.unpaid_deliveries,
            endowment=options.endowment,
        )
        return _among_nodes(
            ParameterMarket, setting, terms, common_init=options.common_init, first=options.trading_starts
        )

    return build


def _among_nodes(
    kind: type[ParameterMarket], setting: Setting, terms: Terms, *, common_init: bool, first: int
) -> Strategy:
    options, task = setting.configuration, setting.task
    fit, certify = setting.splits
    broker = Broker(
        task.build_model(),
        task.criterion,
        fit,
        certify,
        ledger=setting.ledger,
        terms=terms,
        run=setting.ledger.begin_run(options.strategy),
        seed=options.seed,
        build=task.build,
        hardware=options.hardware,
    )
    checkpoints = None
    if options.out_dir and options.checkpoints_kept:
        checkpoints = Checkpoints(checkpoints_path(Path(options.out_dir), options.strategy), options.checkpoints_kept)
    return kind(
        broker,
        agents=options.agents,
        first_round=first,
        common_init=common_init,
        reply_timeout=options.reply_timeout,
        connect_timeout=options.connect_timeout,
        history=setting.history,
        checkpoints=checkpoints,
        bind_accounts=options.bind_accounts,
    )


def _fedfomo(setting: Setting) -> Strategy:
    _one_architecture(setting)
    return _among_nodes(FedFomo, setting, Terms(endowment=0), common_init=True, first=1)


def _averaging(kind: Callable[[Configuration, History], Strategy]) -> Callable[[Setting], Strategy]:
    """Return what builds a strategy that averages the models of all agents."""
    return lambda setting: kind(_one_architecture(setting), setting.history)


def _published_first_round(options: Configuration) -> int:
    return options.first_round or PUBLISHED_FIRST_ROUND


def _late_fedavg(setting: Setting) -> Strategy:
    options = _one_architecture(setting)
    return LateFedAvg(options, setting.history, _published_first_round(options))


def _siloed(setting: Setting) -> Strategy:
    return LateFedAvg(setting.configuration, setting.history, None)


def _tuned(setting: Setting) -> Strategy:
    options = _one_architecture(setting)
    loss = ModelLoss(setting.task.build_model(), setting.task.criterion, hardware=options.hardware)
    fit, certify = setting.splits
    return TunedFedAvg(options, setting.history, loss=loss, fit=fit, certify=certify)


def _one_architecture(setting: Setting) -> Configuration:
    """Return the options of a run whose agents all have the same model, as averaging needs."""
    options = setting.configuration
    if options.labels:
        raise MarketError(
            f"{options.strategy} averages whole models, and those of agents with labels of their own differ; accepted "
            "are siloed and the markets"
        )
    return options


ARMS = {
    "siloed": Arm("siloed", _siloed, "independent", lambda _: None),
    "fedavg": Arm("FedAvg", _averaging(RecordedFedAvg), "common", lambda _: 1),
    "fedavg-late": Arm("FedAvg, late", _late_fedavg, "independent", _published_first_round),
    "fedavg-tuned": Arm("FedAvg, tuned by the broker", _tuned, "common", lambda _: 1),
    "fedprox": Arm("FedProx", _averaging(RecordedFedProx), "common", lambda _: 1),
    "fedadam": Arm("FedAdam", _averaging(RecordedFedAdam), "common", lambda _: 1),
    "fedala": Arm("FedALA", _averaging(FedALA), "common", lambda _: 1),
    "fedfomo": Arm("FedFomo", _fedfomo, "common", lambda _: 1),
    "market-unaligned": Arm("market, unaligned", _market(aligned=False)),
    "market": Arm("market", _market()),
    "market-fine": Arm("market, α per row", _market(granularity="row")),
    "market-priced": Arm("market, priced", _market(priced=True)),
    "ensemble": Arm("ensemble of the siloed models", _averaging(Ensemble), "independent", lambda _: None),
    "pooled": Arm("one model on all data", _averaging(Pooled), "independent", lambda _: None),
}
"""The arms by name."""


def arm_named(name: str) -> Arm:
    """Return an arm, or raise MarketError with the names that are accepted."""
    if name not in ARMS:
        raise MarketError(f"unknown arm {name!r}; accepted are {', '.join(ARMS)}")
    return ARMS[name]
