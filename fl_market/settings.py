"""The options of a run besides the market's terms, in groups; each is declared beside its default."""

from dataclasses import dataclass

from fl_market.catalogue import ARM, LOCAL_PRIVACY, PARTITION, PRIOR, TASK, VALUATION
from fl_market.errors import OptionError
from fl_market.options import check_options, option

PUBLISHED_FIRST_ROUND = 5
"""The paper's agents join the market after five epochs (section 6.1.1); its scripts trade from the fifth on."""
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class RunSettings:
    """The run: its arm, its agents, its rounds and its files."""

    strategy: str = option("market", "arm that is run", kind=ARM)
    agents: int = option(2, "number of agents", minimum=2, maximum=1000)
    num_server_rounds: int = option(20, "number of rounds", flag="rounds", minimum=1, changeable=True)
    seed: int = option(0, "decides every random choice", minimum=0)
    out_dir: str = option("", "folder for the results; runs/… by default", flag="out", changeable=True, metavar="DIR")
    checkpoints_kept: int = option(
        2, "rounds whose checkpoints a market keeps in --out; 0 for none", minimum=0, changeable=True
    )
    resume: str = option(
        "",
        "go on with the run in this folder after its last checkpoint, with its own options; more --rounds extend it",
        changeable=True,
        metavar="DIR",
    )
    common_init: bool = option(False, "market agents start from one initialisation and trade from round 1")
    first_round: int = option(0, "first round of trading; 0 for 5, or 1 with --common-init", minimum=0)
    test_every: int = option(1, "agents test their models every so many rounds, and after the last", minimum=1)
    server_learning_rate: float = option(0.01, "learning rate of fedadam's server", above=0)
    tuning_learning_rate: float = option(0.001, "learning rate of fedavg-tuned's steps", above=0)
    bind_accounts: bool = option(False, "an account belongs to the node that opened it: for nodes that authenticate")
    reply_timeout: float = option(600.0, "seconds to wait for an agent's reply", above=0, changeable=True)
    connect_timeout: float = option(120.0, "seconds to wait for the agents to connect", above=0, changeable=True)

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def trading_starts(self) -> int:
        """First round in which the market trades."""
        return self.first_round or (1 if self.common_init else PUBLISHED_FIRST_ROUND)


@dataclass(frozen=True)
class TaskSettings:
    """The task, its data, and how they are shared out."""

    name: str = option("mnist-mlp", "model and data that are trained", key="task", kind=TASK)
    data_dir: str = option(
        "", "data in torchvision's layout; without it, the sample that the package ships", owner="agent", metavar="DIR"
    )
    download: bool = option(False, "let torchvision fetch the data into --data-dir")
    partition: str = option("halves", "how the training set is shared out", kind=PARTITION)
    scarce_share: float = option(
        0.1, "share of its scarce classes that an agent keeps, with halves", minimum=0, maximum=1
    )
    broker_samples: int = option(0, "size of the broker's validation data; 0 for the task's own", minimum=0)
    train_samples: int = option(0, "training samples that are used; 0 for all", minimum=0)
    norm: str = option("batch", "norm layers of residual networks", choices=("batch", "layer", "group"))
    widen: int = option(1, "factor of a residual network's channels", minimum=1)
    image_size: int = option(0, "size that photographs are resized to; 0 for the published one", minimum=0)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class TrainingSettings:
    """Local training, and where models are computed."""

    local_epochs: int = option(1, "epochs in each round", owner="both", minimum=1)
    batch_size: int = option(0, "samples in a step; 0 for the task's own", owner="both", minimum=0)
    optimiser: str = option("sgd", "optimiser", owner="both", choices=("sgd", "adam"))
    learning_rate: float = option(0.01, "learning rate", owner="both", above=0)
    momentum: float = option(0.0, "momentum of sgd", owner="both", minimum=0, below=1)
    augment: bool = option(False, "random crops and flips of training images", owner="both")
    proximal_mu: float = option(0.01, "weight of fedprox' proximal term", above=0)
    device: str = option("auto", "where models are computed", owner="agent", choices=DEVICES)
    precision: str = option(
        "auto",
        "bfloat16 is mixed precision; auto is that on CUDA alone",
        owner="agent",
        choices=("auto", "float32", "bfloat16"),
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class AgentSettings:
    """An agent's own affair: its objective, its data, its bids and asks."""

    profile: str = option(
        "common",
        "objective of each agent: common, own (the classes as in its training data), or classes as 0,1;2,3 "
        "(a semicolon separates the agents')",
        owner="agent",
    )
    labels: str = option(
        "",
        "label space: classes that each agent distinguishes, as 0,1,2;3,4; agents that differ trade what they share",
        owner="agent",
        flag=("classes", "labels"),
    )
    validation_samples: int = option(
        0,
        "training samples that an agent holds out for the broker to certify its purchases on",
        owner="agent",
        minimum=0,
    )
    local_data: str = option(
        "", "own training data: a folder of images by class, an .npz file, or FILE.py:FUNCTION", owner="agent"
    )
    agent_dir: str = option(
        "", "folder in which each agent keeps its model and its receipts", owner="agent", metavar="DIR"
    )
    local_privacy: str = option(
        "", "local differential privacy: clips the update and adds noise", owner="agent", kind=LOCAL_PRIVACY
    )
    valuation: str = option("gain", "value of an offer to a buyer", owner="agent", kind=VALUATION)
    bid_scale: float = option(1.0, "credits that a buyer bids for a gain of 1", owner="agent", minimum=0)
    purchase_limit: float = option(
        0.0, "most credits that an agent pays for one purchase; 0 for no limit", owner="agent", minimum=0
    )
    spending_limit: float = option(
        0.0, "most credits that an agent pays in all; 0 for no limit", owner="agent", minimum=0
    )
    prior: str = option("exponential(10)", "a seller's belief about the buyer's gain", owner="agent", kind=PRIOR)
    learn_prior: bool = option(
        False, "sellers learn their prior from their own quotes, once they have five", owner="agent"
    )
    cost: float = option(0.0, "a seller's own cost of a sale, in units of the gain", owner="agent", minimum=0)
    reserve_price: float = option(0.0, "least credits that an agent asks", owner="agent", minimum=0)

    def __post_init__(self) -> None:
        check_options(self)
        if not all(part in ("common", "own") or classes_in(part) for part in by_agent(self.profile)):
            raise OptionError(
                f"profile must be common, own, or classes with commas between; got {self.profile!r} "
                "(a semicolon separates the agents')"
            )
        if not all(not part or len(classes_in(part)) > 1 for part in by_agent(self.labels)):
            raise OptionError(
                f"labels must be two or more classes with commas between; got {self.labels!r} "
                "(a semicolon separates the agents')"
            )
        if self.local_privacy and self.validation_samples:
            raise OptionError("local-privacy blurs parameters alone; it cannot be combined with validation-samples")

    @property
    def label_set(self) -> tuple[int, ...]:
        """The label space in ascending order; empty for all classes."""
        return classes_in(self.labels)


def by_agent(text: str) -> list[str]:
    """Return the parts of a text that are meant for one agent each; agents beyond them take turns."""
    return [part.strip() for part in text.split(";")]


def classes_in(text: str) -> tuple[int, ...]:
    """Return the classes in a text, in ascending order; none where it holds anything else.

    >>> classes_in("3, 1"), classes_in("own")
    ((1, 3), ())
    """
    parts = [part.strip() for part in text.split(",")]
    return tuple(sorted({int(part) for part in parts})) if all(part.isdecimal() for part in parts) else ()
