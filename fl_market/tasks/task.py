"""A task: data, model and loss, as agents and broker use them."""

import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from torch import Tensor, nn

from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.gains.objectives import with_labels
from fl_market.parameters import StateDict
from fl_market.seeds import reproducible


@dataclass(frozen=True)
class TaskOptions:
    """Source and partition of the data, and choices of the model.

    Attributes
    ----------
    data_dir
        Folder in torchvision's layout; empty for the sample that the package ships.
    download
        Let torchvision fetch what is missing in ``data_dir``.
    agents
        Number of agents.
    seed
        Decides the partition.
    partition
        Of the training set among agents: ``halves`` (the paper's), ``dirichlet(β)`` or ``shards(k)``.
    scarce_share
        With ``halves``: share of its scarce classes' samples that an agent keeps.
    broker_samples
        Samples that the broker takes out of the training set; 0 for the task's default.
    train_samples
        Number of the remaining samples that are used; 0 for all.
    norm
        Norm layers of a residual network.
    widen
        Factor of a residual network's channels.
    augment
        Crop and flip training images at random.
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
    """One classification problem, partitioned among the agents and the broker.

    Attributes
    ----------
    name
        As users write it.
    build
        Makes an untrained model for a number of classes, with weights from torch's global generator.
    classes
        Number of classes.
    criterion
        Losses of (outputs, targets), one for each sample.
    agents
        Training data of each agent: inputs and targets.
    broker
        The broker's validation data, disjoint from what agents train on.
    test
        The common test set; no decision may use it.
    batch_size
        Default batch size of local training.
    augment
        Random change of a batch of training inputs, from torch's global generator; None for none.
    prepare
        Makes inputs of an agent's own images: unsigned bytes, shape (samples, channels, height,
        width). None if the inputs are no images.
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
        """Return the task on a label space: samples of these classes, and a model with an output for each.

        Raises
        ------
        MarketError
            If a label is not one of the classes.
        """
        if not labels:
            return self
        if max(labels) >= self.classes:
            raise MarketError(f"labels must be from 0 to {self.classes - 1}; got {max(labels)}")
        agents = tuple(with_labels(data, labels) for data in self.agents)
        broker, test = with_labels(self.broker, labels), with_labels(self.test, labels)
        return replace(self, classes=len(labels), agents=agents, broker=broker, test=test)

    def initial_model(self, seed: int, agent: str | None = None) -> nn.Module:
        """Return an untrained model: the agent's own initialisation, or the common one for None."""
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
