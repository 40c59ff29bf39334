"""Local training and evaluation of one model."""

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fl_market.errors import MarketError
from fl_market.gains import Batch, batch_size_for
from fl_market.seeds import torch_generator


def train(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    criterion: nn.Module,
    data: Batch,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    purpose: tuple[str | int, ...],
) -> float:
    """Train in place (the paper's local update) and return the mean loss of the last epoch.

    Parameters
    ----------
    model, optimiser
        Both are changed.
    criterion
        Losses of (outputs, targets), one for each sample.
    data
        Inputs and targets.
    epochs, batch_size
        How long and in which portions.
    seed, purpose
        Name the random stream that shuffles the data.
    """
    inputs, targets = data
    if not len(inputs):
        raise MarketError("the agent has no training data; a larger scarce-share or fewer agents would give it some")
    generator = torch_generator(seed, *purpose)
    model.train()
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        for batch in torch.split(torch.randperm(len(inputs), generator=generator), batch_size):
            optimiser.zero_grad()
            losses = criterion(model(inputs[batch]), targets[batch])
            losses.mean().backward()
            optimiser.step()
            total += float(losses.detach().sum())
    return total / len(inputs)


@torch.no_grad()
def evaluate(model: nn.Module, criterion: nn.Module, data: Batch) -> tuple[float, float]:
    """Return mean loss and accuracy."""
    model.eval()
    batch_size = batch_size_for(model, data[0])
    loss, right = 0.0, 0
    for inputs, targets in zip(*(torch.split(part, batch_size) for part in data), strict=True):
        outputs = model(inputs)
        loss += float(criterion(outputs, targets).sum())
        right += int((outputs.argmax(1) == targets).sum())
    return loss / len(data[0]), right / len(data[0])


def pack(state: Mapping[str, Any]) -> bytes:
    """Return an optimiser's state as bytes."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, Any]:
    """Return the optimiser's state that :func:`pack` was given."""
    return dict(torch.load(io.BytesIO(data), weights_only=True))
