"""Data as the market sees it: tensors that agree in their first axis."""

from collections.abc import Sequence

import torch
from torch import Tensor

Batch = tuple[Tensor, ...]
"""Inputs and targets, sample by sample along axis 0."""


def batches_of(order: Tensor, size: int) -> list[Tensor]:
    """Return the samples in batches; a last batch of one sample is merged into the one before it.

    BatchNorm cannot train on one sample. Batches of one that the caller asks for are left alone.

    Parameters
    ----------
    order
        Numbers of the samples, shape (samples,), in the order in which they are seen.
    size
        Samples in a batch, at least 1.

    Examples
    --------
    >>> [batch.tolist() for batch in batches_of(torch.arange(5), 2)]
    [[0, 1], [2, 3, 4]]
    >>> [batch.tolist() for batch in batches_of(torch.arange(3), 1)]
    [[0], [1], [2]]
    """
    batches = list(order.split(size))  # type: ignore[no-untyped-call]
    if size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def with_labels(data: Batch, labels: Sequence[int]) -> Batch:
    """Return the samples of some classes, with targets numbered by their position in the labels.

    Parameters
    ----------
    data
        Samples whose second part are the classes.
    labels
        Classes, in ascending order.
    """
    wanted = torch.tensor(labels, device=data[1].device)
    kept = torch.isin(data[1], wanted)
    return tuple(torch.searchsorted(wanted, part[kept]) if part is data[1] else part[kept] for part in data)
