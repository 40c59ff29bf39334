"""A task: data, model and loss, as agents and broker use them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from fl_market.catalogue import TASK
from fl_market.data import Batch, with_labels
from fl_market.errors import MarketError
from fl_market.parameters import StateDict
from fl_market.plugins import find
from fl_market.seeds import reproducible
from fl_market.settings import TaskSettings

BROKER: Literal["broker"] = "broker"
Party = int | Literal["broker"] | None
"""An agent's number, :data:`BROKER`, or None for all parties together."""


@dataclass(frozen=True)
class TaskOptions(TaskSettings):
    """All that a function that makes a task is told: the options of the task, and the fields below.

    Attributes
    ----------
    agents
        Number of agents.
    seed
        Decides the broker's part and each agent's.
    augment
        Change training images at random: crop and flip.
    party
        The party that the task is for: the broker, or one agent by its number. It is given no other
        party's samples, so they need not be made. None for the samples of all.
    """

    agents: int = 2
    seed: int = 0
    augment: bool = False
    party: Party = None


@dataclass(frozen=True)
class Task:
    """One classification problem, partitioned among the agents and the broker.

    A process holds the samples of its own party: those of all other parties are empty batches.

    Attributes
    ----------
    name
        As users write it.
    build
        Makes an untrained model for a number of classes; torch's global generator draws weights.
    classes
        Number of classes.
    criterion
        Losses of (outputs, targets), one loss for each sample.
    agents
        Training data of each agent by its number: inputs and targets.
    broker
        The broker's validation data, disjoint from the agents' training data.
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
        """Return the task on a label space: its samples, and a model with one output per class.

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

    def only_for(self, party: Party) -> "Task":
        """Return the task without the samples of other parties; None is all parties together."""
        if party is None:
            return self
        nothing = tuple(part[:0] for part in self.test)
        return replace(
            self,
            agents=tuple(_own(data) if index == party else nothing for index, data in enumerate(self.agents)),
            broker=_own(self.broker) if party == BROKER else nothing,
            test=_own(self.test),
        )

    def initial_model(self, seed: int, agent: str | None = None) -> nn.Module:
        """Return an untrained model: the agent's own initialisation, or the common one for None."""
        with reproducible(seed, "initial-weights", agent or "common"):
            return self.build_model()

    @property
    def template(self) -> StateDict:
        """A state dict of the right names, shapes and dtypes."""
        return self.build_model().state_dict()


def _own(data: Batch) -> Batch:
    """Return the data; a slice is copied, for it would keep the whole tensor in memory."""
    return tuple(part.clone() if part.untyped_storage().nbytes() > part.nbytes else part for part in data)


TASKS: dict[str, Callable[[TaskOptions], Task]] = {}
"""The tasks by name."""


def find_task(name: str) -> Callable[[TaskOptions], Task]:
    """Return the function that makes a task: a shipped one, or your own as ``FILE.py:FUNCTION``.

    Your file is run anew each time, so that a task does not depend on those made before it.

    Raises
    ------
    OptionError
        If there is no such task.
    """
    make: Callable[[TaskOptions], Task] = find(TASK, name, fresh=True)
    return make
