"""Share a training set out among the broker and the agents."""

import torch
from torch import Tensor

from fl_market.errors import MarketError
from fl_market.gains.losses import Batch
from fl_market.seeds import torch_generator
from fl_market.tasks.task import TaskOptions


def share_out(train: Batch, options: TaskOptions) -> tuple[Batch, ...]:
    """Return each agent's part of what the broker left of the training set: the paper's imbalance.

    Of the whole set or, with ``options.train_samples``, of so many samples of it.
    """
    if options.train_samples:
        train, _ = take_out(train, options.train_samples, options.seed, "training-data")
    inputs, targets = train
    parts = by_halves_of_classes(targets, options.agents, options.scarce_share, options.seed)
    return tuple((inputs[part], targets[part]) for part in parts)


def take_out(data: Batch, count: int, seed: int, purpose: str) -> tuple[Batch, Batch]:
    """Return ``count`` samples in which every class has its share, and what is left."""
    inputs, targets = data
    taken = stratified(targets, count, seed, purpose)
    left = torch.ones(len(targets), dtype=torch.bool)
    left[taken] = False
    return (inputs[taken], targets[taken]), (inputs[left], targets[left])


def stratified(targets: Tensor, count: int, seed: int, *purpose: str) -> Tensor:
    """Return the indices of ``count`` samples in which every class has its share, and at least one of each.

    Raises
    ------
    MarketError
        If ``count`` is not between the number of classes and that of samples.
    """
    classes = torch.unique(targets)
    if not len(classes) <= count < len(targets):
        raise MarketError(
            f"{count} samples cannot be taken out of {len(targets)}: accepted are {len(classes)} to {len(targets) - 1}"
        )
    order = torch.randperm(len(targets), generator=torch_generator(seed, *purpose))
    # the k-th of n samples of a class stands at quantile (k + 1/2) / n; the lowest quantiles of all are taken
    quantile = torch.empty(len(targets), dtype=torch.float64)
    for label in classes:
        members = order[targets[order] == label]
        quantile[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return torch.sort(order[torch.argsort(quantile[order], stable=True)[:count]]).values


def by_halves_of_classes(targets: Tensor, agents: int, scarce_share: float, seed: int) -> list[Tensor]:
    """Return each agent's indices: the paper's imbalance (section 6.1.1).

    Agents A, C, … keep only a share of the first half of the classes and all of the second; B, D, … the reverse. All
    draw from the same training set, as published.

    Raises
    ------
    MarketError
        If the share is not in [0, 1].
    """
    if not 0 <= scarce_share <= 1:
        raise MarketError(f"the share of scarce classes must lie in [0, 1], not be {scarce_share}")
    classes = torch.unique(targets).tolist()
    halves = classes[: len(classes) // 2], classes[len(classes) // 2 :]
    parts = []
    for agent in range(agents):
        generator = torch_generator(seed, "partition", agent)
        kept = []
        for label in classes:
            members = torch.nonzero(targets == label).flatten()
            if label in halves[agent % 2]:
                count = round(scarce_share * len(members))
                members = members[torch.randperm(len(members), generator=generator)[:count]]
            kept.append(members)
        parts.append(torch.sort(torch.cat(kept)).values)
    return parts
