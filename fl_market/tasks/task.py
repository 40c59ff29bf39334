"""A task: everything that agents and broker need to know of what is trained."""

import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import cast

from torch import Tensor, nn

from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.gains.objectives import with_labels
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
    augment
        Change training images at random: crop and flip.
    image_size
        Height and width that photographs are resized to; 0 for the published one.
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
    augment: bool = False
    image_size: int = 0


@dataclass(frozen=True)
class Task:
    """One learning problem, shared out among the agents and the broker.

    Attributes
    ----------
    name
        As users write it.
    build
        Makes an untrained model for a number of classes; it draws its weights from torch's global generator.
    classes
        How many there are.
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
    augment
        Changes a batch of training inputs at random, drawing from torch's global generator; None for nothing.
    prepare
        Makes inputs of an agent's own images: unsigned bytes, shape (samples, channels, height, width). None where the
        inputs are no images.
    """

    name: str
    build: Callable[[int], nn.Module]
    classes: int
    criterion: nn.Module
    agents: tuple[Batch, ...] = field(repr=False)
    broker: Batch = field(repr=False)
    test: Batch = field(repr=False)
    batch_size: int
    augment: Callable[[Tensor], Tensor] | None = None
    prepare: Callable[[Tensor], Tensor] | None = None

    def build_model(self) -> nn.Module:
        """Return an untrained model."""
        return self.build(self.classes)

    def restricted_to(self, labels: Sequence[int]) -> "Task":
        """Return the task of telling some classes apart: their samples alone, and a model with an output for each.

        Raises
        ------
        MarketError
            If a label is not one of the classes.
        """
        if not labels:
            return self
        if max(labels) >= self.classes:
            raise MarketError(f"there is no label {max(labels)}; accepted are 0 to {self.classes - 1}")
        agents = tuple(with_labels(data, labels) for data in self.agents)
        broker, test = with_labels(self.broker, labels), with_labels(self.test, labels)
        return replace(self, classes=len(labels), agents=agents, broker=broker, test=test)

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


def find_task(name: str) -> Callable[[TaskOptions], Task]:
    """Return the function that makes a task: a shipped one, or a user's own as ``FILE.py:FUNCTION``.

    Raises
    ------
    MarketError
        If there is no such task.
    """
    if name in TASKS:
        return TASKS[name]
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise MarketError(
            f"task cannot be {name!r}; accepted is one of {', '.join(sorted(TASKS))}, or FILE.py:FUNCTION for your own"
        )
    try:
        return cast(Callable[[TaskOptions], Task], runpy.run_path(file)[function])
    except KeyError:
        raise MarketError(f"{file} has no function {function!r} that could make a task") from None
    except Exception as error:  # a user's file may raise anything
        raise MarketError(f"{file} cannot be run: {type(error).__name__}: {error}") from error


@lru_cache(maxsize=4)
def load_task(name: str, options: TaskOptions) -> Task:
    """Return a task; one process loads it once.

    Raises
    ------
    MarketError
        If there is no such task, or the data cannot be read.
    """
    task = find_task(name)(options)
    if not isinstance(task, Task):
        raise MarketError(f"{name} makes no fl_market.tasks.Task, but a {type(task).__name__}")
    if len(task.agents) != options.agents:
        raise MarketError(f"{name} has data for {len(task.agents)} agents, not for {options.agents}")
    return task
