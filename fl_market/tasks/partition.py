"""Partition a training set among the broker and the agents."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fl_market.catalogue import PARTITION
from fl_market.data import Batch
from fl_market.errors import MarketError, OptionError
from fl_market.plugins import find
from fl_market.seeds import numpy_generator, torch_generator
from fl_market.tasks.reading import kept_if_repeated
from fl_market.tasks.task import BROKER, Party, Task, TaskOptions

BROKER_SAMPLES = 5000


class Inputs(Protocol):
    """Inputs of a data set by their numbers: a tensor, or files that are read on demand."""

    def __getitem__(self, samples: Tensor, /) -> Tensor:
        """Return the inputs of some samples, by their numbers."""


def shared_task(
    name: str,
    build: Callable[[int], nn.Module],
    train: Batch | tuple[Inputs, Tensor],
    test: Batch,
    options: TaskOptions,
    *,
    batch_size: int,
    broker: Batch | Callable[[], Batch] | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Task:
    """Return a classification task whose training set is partitioned among broker and agents.

    Only the samples of ``options.party`` are taken out of the data set and prepared.

    Parameters
    ----------
    name
        As users write it.
    build
        Makes an untrained model for a number of classes.
    train, test
        Inputs, shape (samples, …), and labels 0, 1, …, shape (samples,).
    options
        Say how the training set is partitioned.
    batch_size
        Default batch size of local training.
    broker
        The broker's data, or a function that returns them and is called for the broker alone; by
        default ``options.broker_samples``, or 5 000, samples of ``train``.
    augment
        Random change of a batch of training inputs.
    prepare
        Makes inputs of images; see :class:`Task`. Applied to all inputs after the partition,
        because most of a large training set in bytes is never needed as floats.
    """

    def prepared(inputs: Tensor, targets: Tensor) -> Batch:
        return (inputs if prepare is None else prepare(inputs)), targets

    inputs, targets = train
    common = prepared(test[0], test[1])
    nothing = tuple(part[:0] for part in common)

    def taken(samples: Tensor, party: Party) -> Batch:
        return prepared(inputs[samples], targets[samples]) if options.party in (None, party) else nothing

    parts = _partition(targets.long().numpy().tobytes(), broker is None, replace(options, party=None))
    if broker is None:
        brokers = taken(parts.broker, BROKER)
    elif options.party in (None, BROKER):
        brokers = prepared(*_some(broker() if callable(broker) else broker, options))
    else:
        brokers = nothing
    return Task(
        name=name,
        build=build,
        classes=1 + int(test[1].max()),
        criterion=nn.CrossEntropyLoss(reduction="none"),
        agents=tuple(taken(samples, agent) for agent, samples in enumerate(parts.agents)),
        broker=brokers,
        test=common,
        batch_size=batch_size,
        augment=augment,
        prepare=prepare,
    )


def _some(data: Batch, options: TaskOptions) -> tuple[Tensor, Tensor]:
    """Return as many samples of the broker's own data set as the options say."""
    inputs, targets = data
    if not options.broker_samples:
        return inputs, targets
    samples = stratified(targets, options.broker_samples, options.seed, "broker-data", option="broker-samples")
    return inputs[samples], targets[samples]


@dataclass(frozen=True)
class _Parts:
    """The numbers of the samples of a training set that broker and agents have."""

    broker: Tensor
    agents: tuple[Tensor, ...]


@kept_if_repeated(4)
def _partition(labels: bytes, with_broker: bool, options: TaskOptions) -> _Parts:
    """Return each party's samples, partitioned among the agents as ``options.partition`` says.

    With ``options.train_samples``, only that many samples are partitioned among the agents.

    Parameters
    ----------
    labels
        The targets of the training set, as 64-bit integers.
    with_broker
        Whether the broker's data are part of the training set, and taken out first.
    options
        Say how it is partitioned.
    """
    targets = torch.frombuffer(bytearray(labels), dtype=torch.int64)
    broker, left = torch.empty(0, dtype=torch.int64), torch.arange(len(targets))
    if with_broker:
        count = options.broker_samples or BROKER_SAMPLES
        broker = stratified(targets, count, options.seed, "broker-data", option="broker-samples")
        left = left[~torch.isin(left, broker)]
    if options.train_samples:
        count = options.train_samples
        left = left[stratified(targets[left], count, options.seed, "training-data", option="train-samples")]
    return _Parts(broker, tuple(left[part] for part in _among_agents(targets[left], options)))


def stratified(targets: Tensor, count: int, seed: int, *purpose: str, option: str = "count") -> Tensor:
    """Return the indices of a stratified sample, with at least one sample of each class.

    Raises
    ------
    MarketError
        If ``count``, named ``option`` in the message, is below the number of classes or not below
        that of samples.
    """
    classes = torch.unique(targets)
    if not len(classes) <= count < len(targets):
        raise MarketError(
            f"{option} must be from {len(classes)} to {len(targets) - 1}, for there are {len(classes)} classes and "
            f"{len(targets)} samples; got {count}"
        )
    order = torch.randperm(len(targets), generator=torch_generator(seed, *purpose))
    # the k-th of n samples of a class has quantile (k + 1/2) / n; the lowest quantiles are taken
    quantile = torch.empty(len(targets), dtype=torch.float64)
    for label in classes:
        members = order[targets[order] == label]
        quantile[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return torch.sort(order[torch.argsort(quantile[order], stable=True)[:count]]).values


def by_halves_of_classes(targets: Tensor, agents: int, seed: int, scarce_share: float = 0.1) -> list[Tensor]:
    """Return each agent's indices: the paper's imbalance (section 6.1.1).

    Agents A, C, … keep only a share of the first half of the classes and all of the second; B, D, …
    the reverse. All agents draw from the same training set, as published.

    Raises
    ------
    OptionError
        If the share is not in [0, 1].
    """
    if not 0 <= scarce_share <= 1:
        raise OptionError(f"the share of scarce classes must be in [0, 1]; got {scarce_share:g}")
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


def by_dirichlet(targets: Tensor, agents: int, seed: int, concentration: float) -> list[Tensor]:
    """Return each agent's indices: shares of each class drawn from a Dirichlet distribution.

    Hsu et al. 2019. Draws are repeated until every agent has at least ten samples, or an equal
    share if that is less.

    Raises
    ------
    OptionError
        If the concentration is not above 0, or no draw gives every agent enough.
    """
    if not 0 < concentration < float("inf"):
        raise OptionError(f"the concentration of a Dirichlet partition must be above 0; got {concentration:g}")
    generator = numpy_generator(seed, "partition", "dirichlet")
    least = min(10, len(targets) // agents)
    for _ in range(1000):
        parts: list[list[Tensor]] = [[] for _ in range(agents)]
        for label in torch.unique(targets):
            members = torch.nonzero(targets == label).flatten()
            members = members[torch.from_numpy(generator.permutation(len(members)))]
            ends = (np.cumsum(generator.dirichlet([concentration] * agents)) * len(members)).round().astype(int)
            for part, chosen in zip(parts, np.split(members.numpy(), ends[:-1]), strict=True):
                part.append(torch.from_numpy(chosen))
        indices = [torch.sort(torch.cat(part)).values for part in parts]
        if min(map(len, indices)) >= least:
            return indices
    raise OptionError(f"no dirichlet({concentration:g}) partition gives each of {agents} agents {least} samples")


def by_shards(targets: Tensor, agents: int, seed: int, shards: int) -> list[Tensor]:
    """Return each agent's indices: some shards of the samples sorted by class (McMahan 2017).

    Raises
    ------
    OptionError
        If there are more shards than samples, or fewer than one for each agent.
    """
    if not 1 <= shards <= len(targets) // agents:
        raise OptionError(f"{len(targets)} samples cannot be cut into {shards} shards for each of {agents} agents")
    order = torch.argsort(targets, stable=True)
    cuts = torch.tensor_split(order, agents * shards)
    dealt = torch.randperm(agents * shards, generator=torch_generator(seed, "partition", "shards")).tolist()
    return [torch.sort(torch.cat([cuts[index] for index in dealt[agent::agents]])).values for agent in range(agents)]


def by_shares(targets: Tensor, agents: int, seed: int, *shares: float) -> list[Tensor]:
    """Return each agent's indices: disjoint parts of given sizes, with the same mix of classes.

    Parameters
    ----------
    targets
        Labels, shape (samples,).
    agents, seed
        Number of agents; seed of the draw.
    *shares
        Share of each agent in the samples, of which the rest is left out.

    Raises
    ------
    OptionError
        If there is not one share above 0 for each agent, or their sum is above 1.
    """
    if len(shares) != agents or not all(share > 0 for share in shares) or sum(shares) > 1 + 1e-9:
        raise OptionError(
            f"shares must be {agents} numbers above 0, one for each agent, of sum 1 or less; got {shares}"
        )
    generator = torch_generator(seed, "partition", "shares")
    parts: list[list[Tensor]] = [[] for _ in range(agents)]
    for label in torch.unique(targets):
        members = torch.nonzero(targets == label).flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        ends = [round(float(end) * len(members)) for end in np.cumsum((0.0, *shares))]
        for part, (start, end) in zip(parts, pairwise(ends), strict=True):
            part.append(members[start:end])
    return [torch.sort(torch.cat(part)).values for part in parts]


def evenly(targets: Tensor, agents: int, seed: int) -> list[Tensor]:
    """Return each agent's indices: equal parts with the same mix of classes."""
    return by_shares(targets, agents, seed, *[1 / agents] * agents)


def by_ranges_of_classes(targets: Tensor, agents: int, seed: int, classes: int) -> list[Tensor]:
    """Return each agent's indices: the samples of neighbouring classes in its equal part.

    The ranges begin at equal distances: two agents with 7 of 10 classes have 0 to 6 and 3 to 9.

    Raises
    ------
    OptionError
        If there are fewer classes.
    """
    known = torch.unique(targets)
    if not 1 <= classes <= len(known):
        raise OptionError(f"the classes of each agent must be from 1 to {len(known)}; got {classes}")
    parts = []
    for agent, part in enumerate(evenly(targets, agents, seed)):
        first = round(agent * (len(known) - classes) / max(1, agents - 1))
        parts.append(part[torch.isin(targets[part], known[first : first + classes])])
    return parts


class Partitioner(Protocol):
    """The used part of ``flwr_datasets.partitioner.Partitioner``."""

    dataset: Any

    def load_partition(self, partition_id: int) -> Any:
        """Return the rows of one agent."""


def by_partitioner(targets: Tensor, agents: int, partitioner: Partitioner) -> list[Tensor]:
    """Return each agent's indices, by a partitioner of ``flwr-datasets``.

    Parameters
    ----------
    targets
        Labels, shape (samples,); the partitioner finds them in a column ``label``.
    agents
        Number of agents.
    partitioner
        A partitioner without a data set; this function sets it.

    Raises
    ------
    MarketError
        If ``flwr-datasets`` is not installed, or there are fewer parts than agents.
    """
    try:
        from datasets import Dataset
    except ImportError as error:
        raise MarketError(
            "partitioners of flwr-datasets need the package: pip install 'fl-market[datasets]'"
        ) from error
    partitioner.dataset = Dataset.from_dict({"label": targets.tolist(), "index": list(range(len(targets)))})
    try:
        parts = [partitioner.load_partition(agent)["index"] for agent in range(agents)]
    except (IndexError, ValueError, KeyError) as error:
        raise MarketError(f"the partitioner has no part for each of {agents} agents: {error}") from error
    return [torch.sort(torch.tensor(list(part))).values for part in parts]


PARTITIONS: dict[str, Callable[..., list[Tensor]]] = {
    "halves": by_halves_of_classes,
    "dirichlet": by_dirichlet,
    "shards": by_shards,
    "even": evenly,
    "shares": by_shares,
    "classes": by_ranges_of_classes,
}
"""The partitions by name."""


def parse_partition(text: str) -> Callable[[Tensor, int, int], list[Tensor]]:
    """Return the partition named by a text such as ``"dirichlet(0.1)"`` or ``"own.py:by_parity"``.

    Returns
    -------
    callable
        From (targets, agents, seed) to each agent's indices.

    Raises
    ------
    OptionError
        If the text names no partition, or its numbers do not fit.

    Examples
    --------
    >>> parse_partition("shards(1)")(torch.tensor([0, 1]), 2, 0)
    [tensor([0]), tensor([1])]
    """
    partition: Callable[[Tensor, int, int], list[Tensor]] = find(PARTITION, text)
    return partition


def _among_agents(targets: Tensor, options: TaskOptions) -> list[Tensor]:
    """Return each agent's indices.

    Raises
    ------
    OptionError
        If the partition returns anything else.
    """
    text = f"halves({options.scarce_share})" if options.partition == "halves" else options.partition
    parts = parse_partition(text)(targets, options.agents, options.seed)
    if len(parts) != options.agents:
        raise OptionError(f"the partition {text} must return {options.agents} tensors of indices; got {len(parts)}")
    for agent, part in enumerate(parts):
        if len(part) and not 0 <= int(part.min()) <= int(part.max()) < len(targets):
            raise OptionError(f"the partition {text} must give agent {agent} indices from 0 to {len(targets) - 1}")
    return parts
