"""What an agent trains on, and what it wants to be good at."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from clients.local_data import read_local_data
from fl_market.configuration import Configuration
from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.gains import with_labels
from fl_market.seeds import torch_generator
from fl_market.tasks import Task


@dataclass(frozen=True)
class AgentData:
    """One agent's part of a task.

    Attributes
    ----------
    task
        The task, restricted to the classes that the agent distinguishes.
    training
        Its training data.
    validation
        What it holds out for the broker to judge its purchases by; None for nothing.
    class_weights
        Its target distribution of classes; empty where that is the common one.
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
        If the data cannot be read, or a class, or as many samples as are to be held out, do not exist.
    """
    whole = options.load_task()
    task = whole.restricted_to(options.label_set)
    training, validation = task.agents[index], None
    if options.local_data:
        training = read_local_data(options.local_data, whole)
        training = with_labels(training, options.label_set) if options.label_set else training
    if options.validation_samples:
        training, validation = _hold_out(training, options.validation_samples, options.seed, index)
    labels = options.label_set or tuple(range(task.classes))
    return AgentData(task, training, validation, class_weights(options.profile, training[1], labels))


def pooled(task: Task) -> Batch:
    """Return the training data of all agents: what nobody has, for a ceiling."""
    return tuple(torch.cat(parts) for parts in zip(*task.agents, strict=True))


def class_weights(profile: str, targets: Tensor, labels: Sequence[int]) -> tuple[float, ...]:
    """Return the target class weights of a profile other than ``common``; none where they are common.

    Parameters
    ----------
    profile
        ``"own"``: the classes as the training data has them. Otherwise numbers of classes, all of one weight.
    targets
        Targets of the agent's training data.
    labels
        The classes that the agent's outputs stand for.

    Raises
    ------
    MarketError
        If the profile names another class.
    """
    if profile == "common":
        return ()
    if profile == "own":
        counts = torch.bincount(targets, minlength=len(labels))
        return tuple(float(share) for share in counts / counts.sum())
    wanted = {int(number) for number in profile.split(",")}
    if unknown := wanted - set(labels):
        raise MarketError(
            f"the profile {profile!r} names class {min(unknown)}; accepted are the agent's own: "
            f"{', '.join(map(str, labels))}"
        )
    return tuple(1.0 if label in wanted else 0.0 for label in labels)


def _hold_out(data: Batch, count: int, seed: int, index: int) -> tuple[Batch, Batch]:
    samples = len(data[0])
    if count >= samples:
        raise MarketError(f"validation-samples cannot be {count}: the agent has {samples} samples in all")
    order = torch.randperm(samples, generator=torch_generator(seed, "validation", index))
    return tuple(part[order[count:]] for part in data), tuple(part[order[:count]] for part in data)
