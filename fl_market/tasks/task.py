"""A task: everything that agents and broker need to know of what is trained."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from torch import nn

from fl_market.errors import MarketError
from fl_market.gains.losses import Batch
from fl_market.parameters import StateDict
from fl_market.seeds import reproducible


@dataclass(frozen=True)
class TaskOptions:
    """Where the data comes from, how it is shared out, and what there is to choose of the model.

    Attributes
    ----------
    data_dir
        Folder in torchvision's layout; empty for the sample that the package ships.
    download
        Let torchvision fetch what is missing in ``data_dir``.
    agents
        Number of agents.
    seed
        Decides the broker's part and each agent's.
    partition
        How the training set is shared out: ``halves`` (the paper's), ``dirichlet(β)`` or ``shards(k)``.
    scarce_share
        Share of the samples that an agent keeps of its scarce classes, with ``halves``.
    broker_samples
        Samples that the broker takes out of the training set; 0 for the task's default.
    train_samples
        Samples of the rest that are used at all; 0 for every one.
    norm
        Norm layers of a residual network.
    widen
        Factor of a residual network's channels.
    """

    data_dir: str = ""
    download: bool = False
    agents: int = 2
    seed: int = 0
    partition: str = "halves"
    scarce_share: float = 0.1
    broker_samples: int = 0
    train_samples: int = 0
    norm: str = "batch"
    widen: int = 1


@dataclass(frozen=True)
class Task:
    """One learning problem, shared out among the agents and the broker.

    Attributes
    ----------
    name
        As users write it.
    build_model
        Makes an untrained model; it draws its weights from torch's global generator.
    criterion
        Losses of (outputs, targets), one for each sample.
    agents
        Training data of each agent: inputs and targets.
    broker
        The broker's validation data, disjoint from what agents train on.
    test
        The common test set; no decision may look at it.
    batch_size
        Of local training, unless the configuration names another.
    """

    name: str
    build_model: Callable[[], nn.Module]
    criterion: nn.Module
    agents: tuple[Batch, ...] = field(repr=False)
    broker: Batch = field(repr=False)
    test: Batch = field(repr=False)
    batch_size: int

    def initial_model(self, seed: int, agent: str | None = None) -> nn.Module:
        """Return an untrained model: the agent's own initialisation, or the one common to all for None."""
        with reproducible(seed, "initial-weights", agent or "common"):
            return self.build_model()

    @property
    def template(self) -> StateDict:
        """A state dict of the right names, shapes and dtypes."""
        return self.build_model().state_dict()


TASKS: dict[str, Callable[[TaskOptions], Task]] = {}
"""The tasks by name."""


@lru_cache(maxsize=4)
def load_task(name: str, options: TaskOptions) -> Task:
    """Return a task; one process loads it once.

    Raises
    ------
    MarketError
        If the name is unknown, or the data cannot be read.
    """
    if name not in TASKS:
        raise MarketError(f"unknown task {name!r}; accepted are {', '.join(sorted(TASKS))}")
    return TASKS[name](options)
