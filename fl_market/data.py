"""Data as the market sees it: tensors that agree in their first axis."""

import torch
from torch import Tensor

Batch = tuple[Tensor, ...]
"""Inputs and targets, sample by sample along axis 0."""


def batches_of(order: Tensor, size: int) -> list[Tensor]:
    """Return the samples of an epoch, batch by batch.

    A last batch of one sample is merged into the batch before it: BatchNorm has no variance of one
    sample and would raise.

    Parameters
    ----------
    order
        Indices of the samples, shape (samples,).
    size
        Samples of a batch, at least 1. Batches of size 1 stay as they are.

    Examples
    --------
    >>> [batch.tolist() for batch in batches_of(torch.tensor([4, 1, 0, 2, 3]), 2)]
    [[4, 1], [0, 2, 3]]
    """
    batches = list(torch.split(order, size))
    if size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
