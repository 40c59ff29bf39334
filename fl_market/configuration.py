"""The options of a run: one frozen dataclass, the same for the command line and for Flower's run configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from fl_market.errors import MarketError
from fl_market.gains.certificate import GAINS
from fl_market.hardware import DEVICES, PRECISIONS, Hardware, find_hardware
from fl_market.local_privacy import parse_local_privacy
from fl_market.merging.layers import ALL, select_layers
from fl_market.pricing.money import micro_credits
from fl_market.pricing.priors import parse_prior
from fl_market.pricing.rules import parse_rule
from fl_market.protocol import DISCLOSURES
from fl_market.tasks import Task, TaskOptions, find_task, load_task
from fl_market.tasks.partition import parse_partition
from fl_market.tasks.resnet import NORMS

PUBLISHED_FIRST_ROUND = 5
"""The paper's agents join the market after five epochs (section 6.1.1); its scripts trade from the fifth on."""
OPTIMISERS = ("sgd", "adam")
PRIVATE_OPTIONS = (
    "profile",
    "labels",
    "validation-samples",
    "bid-scale",
    "prior",
    "learn-prior",
    "cost",
    "purchase-limit",
    "spending-limit",
    "reserve-price",
    "local-data",
    "agent-dir",
    "local-privacy",
    "data-dir",
    "device",
    "precision",
)
"""Options that are an agent's own affair: on a machine of its own they come from its node configuration alone."""
TRAINING_OPTIONS = ("local-epochs", "batch-size", "optimiser", "learning-rate", "momentum", "augment")
"""Options of a run that an agent may set otherwise for itself."""


@dataclass(frozen=True)
class Configuration:
    """All options of a run, with the defaults that ``pyproject.toml`` repeats for ``flwr run``.

    Attributes
    ----------
    task
        What is trained: a shipped task, or one's own as ``FILE.py:FUNCTION``.
    strategy
        Arm: ``market``, ``market-priced``, ``fedavg``, ``siloed``, …
    agents
        Number of agents that the run waits for.
    num_server_rounds
        Rounds.
    seed
        Decides the data split, initial weights, batch order and every other choice.
    data_dir, download
        Data in torchvision's layout, and whether torchvision may fetch it; empty for the shipped sample.
    out_dir
        Where the results and the ledger are written; empty for nowhere.
    checkpoints_kept
        How many rounds' checkpoints a market keeps in its folder; 0 for none.
    resume
        Folder of a run to go on with after its last checkpoint.
    partition
        How the training set is shared out: ``halves`` (the paper's), ``dirichlet(β)`` or ``shards(k)``.
    scarce_share, broker_samples, train_samples
        The share that an agent keeps of its scarce classes; the size of the broker's part, 0 for the task's own; how
        much of the rest is used, 0 for all of it.
    profile
        What an agent wants to be good at: ``common``, ``own`` (the classes as its training data has them), or the
        numbers of its target classes with commas between. Here and in ``labels``, a semicolon separates the agents'.
    labels
        Classes that an agent distinguishes at all, with commas between; empty for all. Agents whose labels differ trade
        the layers that they share, and keep their heads.
    validation_samples
        How many of its training samples an agent holds out for the broker to judge its purchases by; 0 for none.
    norm, widen
        Norm layers and width of residual networks.
    augment, image_size
        Random crops and flips of training images; the size that photographs are resized to, 0 for the published one.
    common_init
        All market agents start from one initialisation and trade from round 1.
    first_round
        First round of trading; 0 for the published 5, or 1 with ``common_init``.
    local_epochs, batch_size, optimiser, learning_rate, momentum
        Local training; a batch size of 0 is the task's own, and the momentum is that of SGD.
    device, precision
        Where models are computed (``auto``, ``cpu``, ``cuda``), and how precisely (``auto``, ``float32``, or
        ``bfloat16`` for mixed precision).
    test_every
        Agents test their models every so many rounds, and after the last one.
    layers, layer_budget
        What a purchase comprises: ``"all"``, or indices and name patterns of layers; and the share of the parameters
        that it may comprise at most, within which the broker picks the best layers.
    max_purchases
        How many sellers a buyer may buy from in one round.
    novelty
        How far a seller's parameters must be from all that was delivered, as a share of their norm.
    gain, confidence
        The gain-from-trade's form, and the level of its certificate's lower bound.
    repair
        Restore the activation statistics of merged networks, or recompute those of BatchNorm.
    fit_steps, fit_learning_rate, fit_batch_size
        Gradient steps on the purchased weights of layers or rows, and the samples that each sees, as does the search
        for a single one; 0 for all of the fit split.
    proximal_mu, server_learning_rate
        Of the arms ``fedprox`` (weight of the proximal term) and ``fedadam`` (the server's step).
    tuning_learning_rate
        Learning rate of the control arm ``fedavg-tuned``, which takes ``fit_steps`` steps on the same data.
    bid_scale
        Credits that a buyer bids for a gain of 1.
    pricing
        Pricing rule of ``market-priced``.
    disclosure
        What sellers are told of a buyer that wants a quote: ``sealed``, ``paper`` or ``sharp``.
    prior, cost
        A seller's belief about the buyer's gain, and its own cost in the same unit.
    learn_prior
        Sellers replace that belief by what their own quotes have taught them, once they have.
    purchase_limit, spending_limit
        Credits that an agent pays at most for one purchase, and for all of them together; 0 for no limit of its own.
    reserve_price
        Credits that an agent asks at least.
    local_data
        An agent's own training data in place of its part of the task's: a folder of images by class, an ``.npz`` file,
        or ``FILE.py:FUNCTION``.
    agent_dir
        Folder in which an agent keeps its model and its receipts, under its name; empty for nowhere.
    local_privacy
        How an agent blurs the parameters that it gives away: empty for not at all, or
        ``gaussian(clipping_norm, sensitivity, epsilon, delta)``.
    endowment
        Credits that each agent starts with.
    class_tolerance
        How much the loss of any class may rise by a purchase; 0 for any rise.
    unpaid_deliveries
        Deliveries, one after the other, that a buyer may leave unacknowledged before it loses the right to buy.
    bind_accounts
        An account belongs to the node that opened it; for nodes that authenticate.
    reply_timeout, connect_timeout
        Seconds to wait for an agent's reply, and for enough agents to connect.
    """

    task: str = "mnist-mlp"
    strategy: str = "market"
    agents: int = 2
    num_server_rounds: int = 20
    seed: int = 0
    data_dir: str = ""
    download: bool = False
    out_dir: str = ""
    checkpoints_kept: int = 2
    resume: str = ""
    partition: str = "halves"
    scarce_share: float = 0.1
    broker_samples: int = 0
    train_samples: int = 0
    norm: str = "batch"
    widen: int = 1
    profile: str = "common"
    labels: str = ""
    validation_samples: int = 0
    augment: bool = False
    image_size: int = 0
    common_init: bool = False
    first_round: int = 0
    local_epochs: int = 1
    batch_size: int = 0
    optimiser: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.0
    device: str = "auto"
    precision: str = "auto"
    test_every: int = 1
    layers: str = "all"
    layer_budget: float = 1.0
    max_purchases: int = 1
    novelty: float = 1e-4
    gain: str = "relative"
    confidence: float = 0.95
    repair: bool = True
    fit_steps: int = 40
    fit_learning_rate: float = 0.1
    fit_batch_size: int = 0
    tuning_learning_rate: float = 0.001
    proximal_mu: float = 0.01
    server_learning_rate: float = 0.01
    bid_scale: float = 1.0
    pricing: str = "nash"
    disclosure: str = "sealed"
    prior: str = "exponential(10)"
    learn_prior: bool = False
    cost: float = 0.0
    purchase_limit: float = 0.0
    spending_limit: float = 0.0
    reserve_price: float = 0.0
    local_data: str = ""
    agent_dir: str = ""
    local_privacy: str = ""
    endowment: float = 100.0
    class_tolerance: float = 0.0
    unpaid_deliveries: int = 3
    bind_accounts: bool = False
    reply_timeout: float = 600.0
    connect_timeout: float = 120.0

    def __post_init__(self) -> None:
        find_task(self.task)
        for name, accepted in (("optimiser", OPTIMISERS), ("device", DEVICES), ("precision", PRECISIONS)):
            self._require(getattr(self, name) in accepted, name, f"one of {', '.join(accepted)}")
        self._require(self.gain in GAINS, "gain", f"one of {', '.join(GAINS)}")
        self._require(self.norm in NORMS, "norm", f"one of {', '.join(NORMS)}")
        for name in ("num_server_rounds", "local_epochs", "widen", "max_purchases", "test_every", "unpaid_deliveries"):
            self._require(getattr(self, name) >= 1, name, "a whole number of at least 1")
        self._require(2 <= self.agents <= 1000, "agents", "2 to 1000: a market needs a buyer and a seller")
        for name in (
            "seed",
            "broker_samples",
            "train_samples",
            "validation_samples",
            "image_size",
            "first_round",
            "batch_size",
            "fit_steps",
            "fit_batch_size",
            "checkpoints_kept",
        ):
            self._require(getattr(self, name) >= 0, name, "a whole number of at least 0")
        for name in (
            "learning_rate",
            "fit_learning_rate",
            "tuning_learning_rate",
            "proximal_mu",
            "server_learning_rate",
            "reply_timeout",
            "connect_timeout",
        ):
            self._require(0 < getattr(self, name) < float("inf"), name, "a number above 0")
        for name in (
            "bid_scale",
            "cost",
            "endowment",
            "novelty",
            "class_tolerance",
            "purchase_limit",
            "spending_limit",
            "reserve_price",
        ):
            self._require(0 <= getattr(self, name) < float("inf"), name, "a number of at least 0")
        self._require(0 <= self.momentum < 1, "momentum", "a number in [0, 1)")
        self._require(0 < self.layer_budget <= 1, "layer_budget", "a number in (0, 1]")
        self._require(0 <= self.scarce_share <= 1, "scarce_share", "a number in [0, 1]")
        self._require(0 < self.confidence < 1, "confidence", "a number in (0, 1)")
        self._require(self.disclosure in DISCLOSURES, "disclosure", f"one of {', '.join(DISCLOSURES)}")
        if self.disclosure != "sealed" and self.gain != "relative":
            raise MarketError(f"disclosure {self.disclosure} needs gains that are relative, not {self.gain!r}")
        parse_rule(self.pricing)
        parse_partition(self.partition)
        self._require(
            all(part in ("common", "own") or _classes_in(part) for part in _of_agents(self.profile)),
            "profile",
            "common, own, or numbers of classes with commas between; a semicolon separates the agents'",
        )
        self._require(
            all(not part or len(_classes_in(part)) > 1 for part in _of_agents(self.labels)),
            "labels",
            "two or more numbers of classes with commas between; a semicolon separates the agents'",
        )
        if self.labels and self.common_init:
            raise MarketError("agents with labels of their own have no common initialisation: drop common-init")
        micro_credits(self.endowment)
        parse_prior(self.prior)
        if parse_local_privacy(self.local_privacy) is not None and self.validation_samples:
            raise MarketError("local-privacy blurs parameters alone: it goes with no validation-samples")

    def _require(self, condition: bool, name: str, accepted: str) -> None:
        if not condition:
            raise MarketError(f"{_kebab(name)} cannot be {getattr(self, name)!r}; accepted is {accepted}")

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Self:
        """Return the configuration that a run configuration such as Flower's describes.

        Raises
        ------
        MarketError
            If an option is unknown, or its value is of the wrong type or out of range.
        """
        known = {_kebab(field.name): field for field in fields(cls)}
        values = {}
        for name, value in options.items():
            if name not in known:
                raise MarketError(f"unknown option {name!r}; accepted are {', '.join(sorted(known))}")
            values[known[name].name] = _convert(name, value, known[name].type)
        return cls(**values)

    def to_mapping(self) -> dict[str, bool | int | float | str]:
        """Return the options as Flower's run configuration takes them."""
        return {_kebab(field.name): getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of_node(cls, run: Mapping[str, Any], node: Mapping[str, Any]) -> Self:
        """Return the options of the agent at a node.

        Parameters
        ----------
        run
            The run's, which the broker's operator sets. What is an agent's own affair is taken from them in a
            simulation only, where one operator plays all parts: the node configuration then has ``num-partitions``.
        node
            Its node configuration: ``partition-id`` is the agent's number.

        Raises
        ------
        MarketError
            If the node has no number, or an option that is not an agent's.
        """
        index = agent_number(node)
        accepted = (*PRIVATE_OPTIONS, *TRAINING_OPTIONS)
        own = {name: value for name, value in node.items() if name not in ("partition-id", "num-partitions")}
        if unknown := sorted(set(own) - set(accepted)):
            raise MarketError(
                f"the node configuration cannot set {unknown[0]!r}; accepted are partition-id, {', '.join(accepted)}"
            )
        simulated = "num-partitions" in node
        common = {name: value for name, value in run.items() if simulated or name not in PRIVATE_OPTIONS}
        return cls.from_mapping({**common, **own}).of_agent(index)

    def of_agent(self, index: int) -> Self:
        """Return the options of one agent: of profiles and labels, which may differ among agents, its own."""
        profiles, labels = _of_agents(self.profile), _of_agents(self.labels)
        return replace(self, profile=profiles[index % len(profiles)], labels=labels[index % len(labels)])

    @property
    def label_set(self) -> tuple[int, ...]:
        """The classes that an agent distinguishes, in ascending order; empty for all."""
        return _classes_in(self.labels)

    @property
    def hardware(self) -> Hardware:
        """Where models are computed on this machine.

        Raises
        ------
        MarketError
            If it has no such device.
        """
        return find_hardware(self.device, self.precision)

    def tests_in(self, market_round: int) -> bool:
        """Return whether agents test their models in a round."""
        return market_round % self.test_every == 0 or market_round == self.num_server_rounds

    @property
    def trading_starts(self) -> int:
        """First round in which the market trades."""
        return self.first_round or (1 if self.common_init else PUBLISHED_FIRST_ROUND)

    def load_task(self) -> Task:
        """Return the task with its data.

        Raises
        ------
        MarketError
            If the data cannot be read, or the layers to trade are none of the task's model.
        """
        task = load_task(
            self.task,
            TaskOptions(
                data_dir=self.data_dir,
                download=self.download,
                agents=self.agents,
                seed=self.seed,
                partition=self.partition,
                scarce_share=self.scarce_share,
                broker_samples=self.broker_samples,
                train_samples=self.train_samples,
                norm=self.norm,
                widen=self.widen,
                augment=self.augment,
                image_size=self.image_size,
            ),
        )
        if self.layers != ALL:
            select_layers(task.template, self.layers)
        return task


def agent_number(node: Mapping[str, Any]) -> int:
    """Return the number of the agent that a node configuration names.

    Raises
    ------
    MarketError
        If it names none.
    """
    index = node.get("partition-id")
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise MarketError("the node configuration lacks partition-id, the number of the agent: 0, 1, …")
    return index


def _of_agents(text: str) -> list[str]:
    """Return what a text says of each agent; where it says it of fewer, they take turns."""
    return [part.strip() for part in text.split(";")]


def _classes_in(text: str) -> tuple[int, ...]:
    """Return the numbers of classes in a text, in ascending order; none where it holds anything else."""
    parts = [part.strip() for part in text.split(",")]
    return tuple(sorted({int(part) for part in parts})) if all(part.isdecimal() for part in parts) else ()


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _convert(name: str, value: Any, kind: Any) -> Any:
    """Return the value in the field's type; whole numbers pass as floats, nothing else is bent."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise MarketError(f"{name} cannot be {value!r}; accepted is a value of type {kind.__name__}")
    return value
