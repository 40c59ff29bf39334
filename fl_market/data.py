"""Data as the market sees it: tensors that agree in their first axis."""

from torch import Tensor

Batch = tuple[Tensor, ...]
"""Inputs and targets, sample by sample along axis 0."""
