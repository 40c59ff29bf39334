"""The arms of a comparison.

An arm names a strategy, the initialisation, and the first round in which models are exchanged.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from flwr.serverapp.strategy import Strategy

from fl_market.broker import Broker, Terms
from fl_market.catalogue import ARM
from fl_market.configuration import PUBLISHED_FIRST_ROUND, Configuration
from fl_market.data import Batch
from fl_market.errors import MarketError, OptionError
from fl_market.gains import ModelLoss
from fl_market.gains.splits import check_certify_samples, split_for_run
from fl_market.ledger import Ledger, Signer
from fl_market.market.executors import Executor, parse_executor
from fl_market.model_files import in_memory
from fl_market.options import options_of
from fl_market.parameters import StateDict
from fl_market.plugins import find, label
from fl_market.registry import Registry
from fl_market.run_folder import checkpoints_path
from fl_market.tasks import Task
from strategies.baselines import (
    Ensemble,
    FedALA,
    LateFedAvg,
    LocalFedAvg,
    Pooled,
    RecordedFedAdam,
    RecordedFedAvg,
    RecordedFedMedian,
    RecordedFedProx,
    RecordedFedTrimmedAvg,
    RecordedKrum,
    TunedFedAvg,
)
from strategies.checkpoints import Checkpoints
from strategies.controls import BrokerOnly, MatchedAveraging, PlaceboMarket, SiloedTuned, Tuning
from strategies.fedfomo import FedFomo
from strategies.history import History
from strategies.market import ParameterMarket

_PRICED = frozenset(
    {
        *("pricing", "disclosure", "endowment", "valuation", "bid-scale", "prior", "learn-prior", "cost"),
        *("purchase-limit", "spending-limit", "reserve-price"),
    }
)
"""Options about money: without effect if every certified gain leads to a purchase."""
_RECORDED = frozenset({"checkpoints-kept", "resume", "bind-accounts"})
_SPLIT = frozenset({"fit-samples", "split-seed"})
"""Options of the broker's fit and certify splits."""
_TUNED = frozenset({"fit-steps", "fit-batch-size", "tuning-learning-rate"}) | _SPLIT
_LATE = frozenset({"first-round", "last-round", "common-init", "profile"})
_FITTED = frozenset({"fit-learning-rate"})
_TRADED = frozenset(option.key for option in options_of(Terms)) - _PRICED - _FITTED | _RECORDED | _LATE | _SPLIT


@dataclass(frozen=True)
class Setting:
    """The inputs that build an arm.

    Attributes
    ----------
    configuration
        The options of the run.
    task
        The task, with the broker's data.
    history, ledger
        Receive metrics and trades.
    split_seed
        The seed of the broker's split, which agents may not be told; None for the options' own.
    signer
        Signs the ledger's heads.
    registry
        The registered agents; None for none.
    """

    configuration: Configuration
    task: Task
    history: History
    ledger: Ledger
    split_seed: int | None = field(default=None, repr=False)
    signer: Signer = field(default_factory=Signer, repr=False)
    registry: Registry | None = None

    @cached_property
    def splits(self) -> tuple[Batch, Batch]:
        """The broker's fit and certify splits.

        Raises
        ------
        MarketError
            If the certify split would be too small.
        """
        run = self.configuration.run
        seed = known_split_seed(self.configuration) if self.split_seed is None else self.split_seed
        return split_for_run(self.task.broker, seed, run.fit_samples)


def known_split_seed(configuration: Configuration) -> int:
    """Return the seed of the broker's split by the options alone, as a simulation uses it."""
    run = configuration.run
    return run.seed if run.split_seed < 0 else run.split_seed


@dataclass(frozen=True)
class Arm:
    """One row of a comparison.

    Attributes
    ----------
    title
        Name in tables.
    build
        Makes the strategy.
    initialisation
        ``"common"`` or ``"independent"``; None if ``common-init`` decides.
    exchanges_from
        Function from the configuration to the first round in which models are exchanged; None for
        never.
    uses
        Keys of the options that this arm uses, among those that not all arms use; None for all.
    """

    title: str
    build: Callable[[Setting], Strategy]
    initialisation: str | None = None
    exchanges_from: Callable[[Configuration], int | None] = lambda options: options.run.trading_starts
    uses: frozenset[str] | None = None

    def initialisation_in(self, configuration: Configuration) -> str:
        """Return the initialisation of the agents."""
        return self.initialisation or ("common" if configuration.run.common_init else "independent")


def check_split(arm: Arm, configuration: Configuration, task: Task) -> None:
    """Raise MarketError if an arm certifies gains, and too few of the broker's samples do so."""
    if arm.uses is None or arm.uses & _SPLIT:
        check_certify_samples(len(task.broker[0]), configuration.run.fit_samples)


def market(*, priced: bool = False, **terms: Any) -> Callable[[Setting], Strategy]:
    """Return the function that builds a market by the user's terms, with some of them replaced.

    Parameters
    ----------
    priced
        Whether the user's pricing rule sets prices; else every certified gain leads to a purchase.
    terms
        Fields of :class:`Terms` that replace the user's.
    """

    def build(setting: Setting) -> Strategy:
        options = setting.configuration
        changes = terms if priced else {"pricing": "free", **terms}
        return _among_nodes(
            ParameterMarket,
            setting,
            replace(options.market, **changes),
            common_init=options.run.common_init,
            first=options.run.trading_starts,
        )

    return build


def _executor(options: Configuration) -> Executor:
    if options.run.executor != "serial" and options.hardware.device.type != "cpu":
        raise OptionError(f"executor must be serial on {options.hardware.device.type}; got {options.run.executor!r}")
    return parse_executor(options.run.executor)


def _among_nodes(
    kind: Callable[..., ParameterMarket], setting: Setting, terms: Terms, *, common_init: bool, first: int
) -> Strategy:
    options, task = setting.configuration, setting.task
    run = options.run
    fit, certify = setting.splits
    checkpoints = None
    if run.out_dir and run.checkpoints_kept:
        checkpoints = Checkpoints(checkpoints_path(Path(run.out_dir), run.strategy), run.checkpoints_kept)
    broker = Broker(
        task.build_model(),
        task.criterion,
        fit,
        certify,
        ledger=setting.ledger,
        terms=terms,
        run=setting.ledger.begin_run(label(run.strategy)),
        seed=run.seed,
        build=task.build,
        hardware=options.hardware,
        execute=_executor(options),
        keep=in_memory if checkpoints is None else checkpoints.models.keep,
    )
    return kind(
        broker,
        agents=run.agents,
        first_round=first,
        last_round=run.last_round,
        joins=options.joins,
        common_init=common_init,
        reply_timeout=run.reply_timeout,
        connect_timeout=run.connect_timeout,
        history=setting.history,
        checkpoints=checkpoints,
        bind_accounts=run.bind_accounts,
        signer=setting.signer,
        registry=setting.registry,
    )


def _fedfomo(setting: Setting) -> Strategy:
    _one_architecture(setting)
    return _among_nodes(FedFomo, setting, Terms(pricing="free", endowment=0.0), common_init=True, first=1)


def _control(
    kind: Callable[[Setting], Callable[..., ParameterMarket]], *, late: bool = True, labels: bool = False
) -> Callable[[Setting], Strategy]:
    """Return the function that builds a control without prices, from the first trading round on.

    Parameters
    ----------
    kind
        Makes the strategy's class, or a function in its place.
    late
        Whether models are exchanged from the first trading round on, rather than from round 1 and
        the common initialisation on.
    labels
        Whether agents may have label spaces of their own.
    """

    def build(setting: Setting) -> Strategy:
        run = (setting.configuration if labels else _one_architecture(setting)).run
        terms = replace(setting.configuration.market, pricing="free")
        common, first = (run.common_init, run.trading_starts) if late else (True, 1)
        return _among_nodes(kind(setting), setting, terms, common_init=common, first=first)

    return build


def _tuned_by_the_broker(kind: type[SiloedTuned]) -> Callable[[Setting], Callable[..., ParameterMarket]]:
    def make(setting: Setting) -> Callable[..., ParameterMarket]:
        terms = setting.configuration.market
        tuning = Tuning(terms.fit_steps, terms.tuning_learning_rate, terms.fit_batch_size)
        return partial(kind, tuning=tuning)

    return make


def _with_placebo(setting: Setting) -> Callable[..., ParameterMarket]:
    def untrained() -> StateDict:
        return setting.task.initial_model(setting.configuration.run.seed, "placebo").state_dict()

    return partial(PlaceboMarket, untrained=untrained)


def averaging(kind: Callable[[Configuration, History], Strategy]) -> Callable[[Setting], Strategy]:
    """Return the function that builds a strategy which averages the models of all agents."""
    return lambda setting: kind(_one_architecture(setting), setting.history)


def _published_first_round(options: Configuration) -> int:
    return options.run.first_round or PUBLISHED_FIRST_ROUND


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
    """Return the options of the run, in which all agents must have the same model."""
    options = setting.configuration
    if options.agent.labels:
        raise MarketError(
            f"{label(options.run.strategy)} averages whole models, so labels must be empty; "
            f"got {options.agent.labels!r} (siloed and the markets support labels)"
        )
    return options


def _fedavg(
    title: str, kind: Callable[[Configuration, History], Strategy], *uses: str, initialisation: str = "common"
) -> Arm:
    first = 1 if initialisation == "common" else None
    return Arm(title, averaging(kind), initialisation, lambda _: first, frozenset(uses))


ARMS = {
    "siloed": Arm("siloed", _siloed, "independent", lambda _: None, frozenset()),
    "fedavg": _fedavg("FedAvg", RecordedFedAvg),
    "fedavg-local": _fedavg("FedAvg, then local fine-tuning", LocalFedAvg),
    "fedavg-late": Arm(
        "FedAvg, late", _late_fedavg, "independent", _published_first_round, frozenset({"first-round", "last-round"})
    ),
    "fedavg-tuned": Arm(
        "FedAvg, tuned by the broker",
        _tuned,
        "common",
        lambda _: 1,
        _TUNED,
    ),
    "fedprox": _fedavg("FedProx", RecordedFedProx, "proximal-mu"),
    "fedadam": _fedavg("FedAdam", RecordedFedAdam, "server-learning-rate"),
    "fedala": _fedavg("FedALA", FedALA),
    "fedfomo": Arm("FedFomo", _fedfomo, "common", lambda _: 1, _RECORDED | _SPLIT | {"profile"}),
    "market-unaligned": Arm("market, unaligned", market(alignment="none"), uses=_TRADED - {"alignment"}),
    "market": Arm("market", market(), uses=_TRADED),
    "market-fine": Arm("market, α per row", market(granularity="row"), uses=_TRADED | _FITTED),
    "market-priced": Arm("market, priced", market(priced=True), uses=_TRADED | _PRICED),
    "market-placebo": Arm("market, one seller untrained", _control(_with_placebo), uses=_TRADED),
    "siloed-tuned": Arm(
        "siloed, tuned by the broker",
        _control(_tuned_by_the_broker(SiloedTuned), labels=True),
        uses=_RECORDED | _TUNED | _LATE,
    ),
    "broker-only": Arm(
        "the broker's data alone",
        _control(_tuned_by_the_broker(BrokerOnly), late=False),
        "common",
        lambda _: 1,
        _RECORDED | _TUNED,
    ),
    "fedavg-matched": Arm(
        "averaging, matched and repaired",
        _control(lambda _: MatchedAveraging),
        uses=_RECORDED | _LATE | _SPLIT | {"alignment", "repair"},
    ),
    "krum": _fedavg("Krum", RecordedKrum),
    "fedmedian": _fedavg("FedMedian", RecordedFedMedian),
    "fedtrimmedavg": _fedavg("FedTrimmedAvg", RecordedFedTrimmedAvg),
    "ensemble": _fedavg("ensemble of the siloed models", Ensemble, initialisation="independent"),
    "pooled": _fedavg("one model on all data", Pooled, initialisation="independent"),
}
"""The arms by name."""


def arm_named(name: str) -> Arm:
    """Return a shipped arm, or your own as ``FILE.py:NAME``.

    Raises
    ------
    OptionError
        If there is no such arm.
    """
    arm: Arm = find(ARM, name)
    return arm


def ignores(arm: Arm, key: str) -> bool:
    """Return whether an option has no effect on an arm."""
    return arm.uses is not None and key in _used_by_some() and key not in arm.uses


def _used_by_some() -> frozenset[str]:
    """Return the options that some arms use and others do not."""
    return frozenset(key for arm in ARMS.values() for key in arm.uses or ())
