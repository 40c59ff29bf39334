"""The options of a run, except the market's terms, in groups; each is declared with its default."""

from dataclasses import dataclass

from fl_market.catalogue import ARM, LOCAL_PRIVACY, PARTITION, PRIOR, TASK, VALUATION
from fl_market.choices import FAULTS, LEAST_CERTIFY_SAMPLES
from fl_market.errors import OptionError
from fl_market.options import check_options, option

PUBLISHED_FIRST_ROUND = 5
"""Published first round of trading.

The paper's agents join the market after five epochs (section 6.1.1), in its scripts in the fifth.
"""
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class RunSettings:
    """The run: its arm, its agents, its rounds and its files."""

    strategy: str = option("market", "arm to run", kind=ARM)
    agents: int = option(2, "number of agents", minimum=2, maximum=1000)
    num_server_rounds: int = option(20, "number of rounds", flag="rounds", minimum=1, changeable=True)
    seed: int = option(0, "seed of all random choices", minimum=0)
    out_dir: str = option("", "folder for the results; runs/… by default", flag="out", changeable=True, metavar="DIR")
    checkpoints_kept: int = option(
        2, "number of checkpoints that a market keeps in --out, one a round; 0 for none", minimum=0, changeable=True
    )
    resume: str = option(
        "",
        "resume the run in this folder after its last checkpoint, with its options; a larger --rounds extends it",
        changeable=True,
        metavar="DIR",
    )
    common_init: bool = option(False, "start the market's agents from one common model; they trade from round 1")
    first_round: int = option(0, "first round of trading; 0 means 5, or 1 with --common-init", minimum=0)
    last_round: int = option(0, "last round of trading; 0 for no limit", minimum=0)
    joins: str = option(
        "1", "round in which each agent joins the run, such as 1;1;10 (a semicolon separates agents)", metavar="N;…"
    )
    test_every: int = option(
        1, "rounds between two tests of the agents' models; the last round is always tested", minimum=1
    )
    server_learning_rate: float = option(0.01, "learning rate of fedadam's server", above=0)
    fit_samples: int = option(
        0, "samples of the broker's validation data that fit purchases, the rest certifies; 0 for half", minimum=0
    )
    split_seed: int = option(
        -1,
        "seed of the division of the broker's data into fit and certify; -1 for --seed in a simulation, and for the "
        "operating system's randomness in a deployment",
        minimum=-1,
    )
    bind_accounts: bool = option(False, "tie each account to the node that opened it; needs node authentication")
    unauthenticated: bool = option(
        False, "run over the network without a registry and without bound accounts: any node may take any name"
    )
    metrics_port: int = option(
        0,
        "port on 127.0.0.1 for metrics of the broker (/metrics for Prometheus, /health as JSON); 0 for none",
        minimum=0,
        maximum=65535,
        changeable=True,
    )
    executor: str = option(
        "serial",
        "where the broker's trials run: serial, processes (one a processor) or processes(NUMBER), ray (the "
        "simulation's, or one on this machine) or ray(ADDRESS); results are the same",
        check="fl_market.market.executors:check_executor",
        changeable=True,
    )
    timings: bool = option(
        False, "measure where the time goes: a table after the run, and timings in results.json", changeable=True
    )
    reply_timeout: float = option(600.0, "seconds to wait for an agent's reply", above=0, changeable=True)
    quorum: float = option(
        0.9,
        "share of the agents after whose replies the others have as long again, and at least --short-deadline",
        above=0,
        maximum=1,
        changeable=True,
    )
    short_deadline: float = option(
        60.0, "least seconds that a phase waits for the rest of the agents after its quorum", above=0, changeable=True
    )
    connect_timeout: float = option(120.0, "seconds to wait for the agents to connect", above=0, changeable=True)

    def __post_init__(self) -> None:
        check_options(self)
        if self.fit_samples == 1:
            raise OptionError("fit-samples must be 0 or at least 2; got 1")
        if not all(part.isdecimal() and int(part) for part in by_agent(self.joins)):
            raise OptionError(f"joins must be rounds of at least 1; got {self.joins!r} (a semicolon separates agents)")
        if self.last_round and self.last_round < self.trading_starts:
            raise OptionError(
                f"last-round must be at least {self.trading_starts}, the first round of trading, or 0; "
                f"got {self.last_round}"
            )

    @property
    def trading_starts(self) -> int:
        """First round in which the market trades."""
        return self.first_round or (1 if self.common_init else PUBLISHED_FIRST_ROUND)

    def may_exchange(self, first: int, market_round: int) -> bool:
        """Return whether agents that begin in the round ``first`` exchange models in a round."""
        return first <= market_round and not 0 < self.last_round < market_round


@dataclass(frozen=True)
class TaskSettings:
    """The task, its data, and their division among the agents."""

    name: str = option("mnist-mlp", "model and data set", key="task", kind=TASK)
    data_dir: str = option(
        "",
        "folder of the data in torchvision's layout; by default, the MNIST sample in the package",
        owner="agent",
        metavar="DIR",
    )
    download: bool = option(False, "let torchvision download the data into --data-dir")
    partition: str = option("halves", "division of the training set among the agents", kind=PARTITION)
    scarce_share: float = option(
        0.1,
        "share of the samples of its scarce classes that an agent keeps; for --partition halves",
        minimum=0,
        maximum=1,
    )
    broker_samples: int = option(0, "samples in the broker's validation data; 0 for the task's default", minimum=0)
    train_samples: int = option(0, "number of training samples in all; 0 for the whole set", minimum=0)
    norm: str = option("batch", "normalisation layers of residual networks", choices=("batch", "layer", "group"))
    widen: int = option(
        1, "factor on the number of channels of a residual network, or of hidden units of mnist-mlp", minimum=1
    )
    image_size: int = option(0, "width of TinyImageNet's images in pixels; 0 for the published size", minimum=0)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class TrainingSettings:
    """Local training, and the device."""

    local_epochs: int = option(1, "local epochs in a round", owner="both", minimum=1)
    batch_size: int = option(0, "samples in a training step; 0 for the task's default", owner="both", minimum=0)
    optimiser: str = option("sgd", "optimiser of local training", owner="both", choices=("sgd", "adam"))
    learning_rate: float = option(0.01, "learning rate of local training", owner="both", above=0)
    momentum: float = option(0.0, "momentum of sgd", owner="both", minimum=0, below=1)
    augment: bool = option(False, "augment training images by random crops and flips", owner="both")
    proximal_mu: float = option(0.01, "weight of the proximal term of fedprox", above=0)
    device: str = option("auto", "device that computes the models", owner="agent", choices=DEVICES)
    precision: str = option(
        "auto",
        "bfloat16 means mixed precision; auto is bfloat16 on CUDA, else float32",
        owner="agent",
        choices=("auto", "float32", "bfloat16"),
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class AgentSettings:
    """An agent's own settings: its objective, its data, its bids and asks."""

    profile: str = option(
        "common",
        "objective of each agent: common, own (weighted by the classes in its training data), or classes "
        "such as 0,1;2,3 (a semicolon separates agents)",
        owner="agent",
    )
    labels: str = option(
        "",
        "label space of each agent: the classes that it distinguishes, such as 0,1,2;3,4 (a semicolon separates "
        "agents); agents with different label spaces trade all layers but the output layer",
        owner="agent",
        flag=("classes", "labels"),
    )
    validation_samples: int = option(
        0,
        "training samples that an agent gives the broker as validation data for its purchases, at least 200; 0 for "
        "none",
        owner="agent",
        minimum=0,
    )
    local_data: str = option(
        "", "the agent's training data: a folder of images by class, an .npz file, or FILE.py:FUNCTION", owner="agent"
    )
    faults: str = option(
        "none",
        f"simulated fault of each agent: {', '.join(FAULTS)} (a semicolon separates agents)",
        owner="agent",
    )
    agent_dir: str = option("", "folder for each agent's model and receipts", owner="agent", metavar="DIR")
    local_privacy: str = option(
        "", "local differential privacy of the parameters sent to the broker", owner="agent", kind=LOCAL_PRIVACY
    )
    valuation: str = option("gain", "value of an offer to the buyer, in credits", owner="agent", kind=VALUATION)
    bid_scale: float = option(1.0, "credits that a gain of 1 is worth to a buyer", owner="agent", minimum=0)
    purchase_limit: float = option(
        0.0, "highest price that an agent pays for one purchase, in credits; 0 for no limit", owner="agent", minimum=0
    )
    spending_limit: float = option(
        0.0, "highest sum that an agent pays in all, in credits; 0 for no limit", owner="agent", minimum=0
    )
    spending_rounds: int = option(
        0,
        "rounds over which --spending-limit is spent evenly: of 20, round 5 may reach a quarter; 0 for no pace",
        owner="agent",
        minimum=0,
    )
    prior: str = option("exponential(10)", "the seller's belief about the buyer's gain", owner="agent", kind=PRIOR)
    learn_prior: bool = option(
        False, "replace the prior by one learned from the seller's own quotes, from five quotes on", owner="agent"
    )
    cost: float = option(0.0, "the seller's cost of a sale, in units of the gain", owner="agent", minimum=0)
    reserve_price: float = option(0.0, "lowest ask of a seller, in credits", owner="agent", minimum=0)

    def __post_init__(self) -> None:
        check_options(self)
        if not all(part in ("common", "own") or classes_in(part) for part in by_agent(self.profile)):
            raise OptionError(
                f"profile must be common, own, or classes separated by commas; got {self.profile!r} "
                "(a semicolon separates agents)"
            )
        if not all(not part or len(classes_in(part)) > 1 for part in by_agent(self.labels)):
            raise OptionError(
                f"labels must be two or more classes separated by commas; got {self.labels!r} "
                "(a semicolon separates agents)"
            )
        if unknown := [part for part in by_agent(self.faults) if part not in FAULTS]:
            raise OptionError(
                f"faults must be of {', '.join(FAULTS)}; got {unknown[0]!r} (a semicolon separates agents)"
            )
        if self.local_privacy and self.validation_samples:
            raise OptionError(
                "validation-samples must be 0 with local-privacy, which protects parameters only; "
                f"got {self.validation_samples}"
            )
        if 0 < self.validation_samples < 2 * LEAST_CERTIFY_SAMPLES:
            raise OptionError(
                f"validation-samples must be 0 or at least {2 * LEAST_CERTIFY_SAMPLES}, half of which certify; "
                f"got {self.validation_samples}"
            )

    @property
    def label_set(self) -> tuple[int, ...]:
        """The label space in ascending order; empty for all classes."""
        return classes_in(self.labels)


def by_agent(text: str) -> list[str]:
    """Return the parts of a text, one for each agent; further agents repeat them in turn."""
    return [part.strip() for part in text.split(";")]


def classes_in(text: str) -> tuple[int, ...]:
    """Return the classes in a text, in ascending order; an empty tuple for any other text.

    >>> classes_in("3, 1"), classes_in("own")
    ((1, 3), ())
    """
    parts = [part.strip() for part in text.split(",")]
    return tuple(sorted({int(part) for part in parts})) if all(part.isdecimal() for part in parts) else ()
