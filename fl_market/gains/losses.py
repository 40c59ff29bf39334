"""Losses of a candidate model on the broker's data, one for each sample."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fl_market.parameters import StateDict

Batch = tuple[Tensor, ...]
"""Inputs and targets, sample by sample along axis 0."""


class Loss(Protocol):
    """The losses of a state dict on a batch."""

    def __call__(self, state: StateDict, data: Batch) -> Tensor:
        """Return one loss for each sample, shape (samples,), differentiable in the state dict."""


class ModelLoss:
    """A :class:`Loss` from an architecture and a criterion, without touching the architecture's own parameters.

    Parameters
    ----------
    model
        The architecture; it is evaluated in evaluation mode.
    criterion
        As ``torch.nn.CrossEntropyLoss(reduction="none")``: (outputs, targets) to losses, one for each sample.
    batch_size
        Samples evaluated at a time.
    """

    def __init__(self, model: nn.Module, criterion: nn.Module, batch_size: int = 5000) -> None:
        self.model = model.eval()
        self.criterion = criterion
        self.batch_size = batch_size

    def __call__(self, state: StateDict, data: Batch) -> Tensor:
        """Return one loss for each sample, shape (samples,)."""
        parts = zip(*(torch.split(part, self.batch_size) for part in data), strict=True)
        return torch.cat(
            [self.criterion(functional_call(self.model, dict(state), (x,), tie_weights=False), y) for x, y in parts]
        )  # fmt: skip
