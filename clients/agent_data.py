"""An agent's data and its objective."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from clients.local_data import read_local_data
from fl_market.configuration import Configuration
from fl_market.data import Batch, with_labels
from fl_market.errors import MarketError
from fl_market.seeds import torch_generator
from fl_market.tasks import Task


@dataclass(frozen=True)
class AgentData:
    """One agent's part of a task.

    Attributes
    ----------
    task
        The task, restricted to the agent's label space; it holds no other party's samples.
    training
        Its training data.
    validation
        Samples that it holds out for the broker to judge its purchases by; None for none.
    class_weights
        Its target distribution of classes; empty for the common one.
    """

    task: Task
    training: Batch
    validation: Batch | None
    class_weights: tuple[float, ...]


@lru_cache(maxsize=8)
def load_agent_data(options: Configuration, index: int) -> AgentData:
    """Return an agent's part of its task.

    Raises
    ------
    MarketError
        If the data cannot be read, the task has none for the agent, a class does not exist, or more
        samples are to be held out than there are.
    """
    whole = options.load_task(index)
    task = whole.restricted_to(options.label_set)
    validation = None
    if options.agent.local_data:
        training = read_local_data(options.agent.local_data, whole)
        training = with_labels(training, options.label_set) if options.label_set else training
    elif index < len(task.agents):
        training = task.agents[index]
    else:
        raise MarketError(f"partition-id must be below {len(task.agents)}, the number of agents; got {index}")
    if options.agent.faults == "random-labels":
        training = random_labels(training, task.classes, options.run.seed, index)
    if options.agent.validation_samples:
        training, validation = _hold_out(training, options.agent.validation_samples, options.run.seed, index)
    labels = options.label_set or tuple(range(task.classes))
    return AgentData(task, training, validation, class_weights(options.agent.profile, training[1], labels))


def pooled(options: Configuration) -> Batch:
    """Return the training data of all agents together, for a ceiling in a simulation.

    Raises
    ------
    MarketError
        If the data cannot be read.
    """
    tasks = (options.load_task(index).restricted_to(options.label_set) for index in range(options.run.agents))
    parts = (task.agents[index] for index, task in enumerate(tasks))
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def random_labels(data: Batch, classes: int, seed: int, index: int) -> Batch:
    """Return an agent's data with targets drawn at random: a simulated fault."""
    inputs, targets = data
    generator = torch_generator(seed, "random-labels", index)
    return inputs, torch.randint(classes, targets.shape, generator=generator, dtype=targets.dtype)


def class_weights(profile: str, targets: Tensor, labels: Sequence[int]) -> tuple[float, ...]:
    """Return the target class weights of a profile; empty for the common ones.

    Parameters
    ----------
    profile
        ``"common"``; ``"own"``, for the distribution of the training data; or numbers of classes
        separated by commas, all of one weight.
    targets
        Targets of the agent's training data, shape (samples,).
    labels
        The agent's label space, class by class in the order of the model's outputs.

    Raises
    ------
    MarketError
        If the profile names a class outside the label space.

    Examples
    --------
    >>> class_weights("own", torch.tensor([0, 0, 0, 2]), labels=(0, 1, 2))
    (0.75, 0.0, 0.25)
    >>> class_weights("1,2", torch.tensor([0, 0, 0, 2]), labels=(0, 1, 2))
    (0.0, 1.0, 1.0)
    """
    if profile == "common":
        return ()
    if profile == "own":
        counts = torch.bincount(targets, minlength=len(labels))
        return tuple(float(share) for share in counts / counts.sum())
    wanted = {int(number) for number in profile.split(",")}
    if unknown := wanted - set(labels):
        raise MarketError(
            f"profile must name classes of the agent's label space ({', '.join(map(str, labels))}); "
            f"got class {min(unknown)} in {profile!r}"
        )
    return tuple(1.0 if label in wanted else 0.0 for label in labels)


def _hold_out(data: Batch, count: int, seed: int, index: int) -> tuple[Batch, Batch]:
    samples = len(data[0])
    if count >= samples:
        raise MarketError(f"validation-samples must be below the agent's {samples} samples; got {count}")
    order = torch.randperm(samples, generator=torch_generator(seed, "validation", index))
    return tuple(part[order[count:]] for part in data), tuple(part[order[:count]] for part in data)
