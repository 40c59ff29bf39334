"""Local training and evaluation of one model."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

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


@torch.no_grad()
def target_accuracy(model: nn.Module, data: Batch, class_weights: Sequence[float]) -> float:
    """Return the accuracy on a distribution of classes that is the agent's own target."""
    model.eval()
    inputs, targets = data
    weights = torch.tensor(class_weights)[targets]
    outputs = torch.cat([model(part) for part in torch.split(inputs, batch_size_for(model, inputs))])
    return float((weights * (outputs.argmax(1) == targets)).sum() / weights.sum())


def class_weights(profile: str, targets: Tensor, classes: int) -> list[float]:
    """Return the target class weights of a profile other than ``common``; none where they are common.

    Parameters
    ----------
    profile
        ``"own"``: the classes as the training data has them. Otherwise numbers of classes, all of one weight.
    targets
        Labels of the agent's training data.
    classes
        How many there are.
    """
    if profile == "common":
        return []
    if profile == "own":
        counts = torch.bincount(targets, minlength=classes)
        return [float(share) for share in counts / counts.sum()]
    wanted = {int(number) for number in profile.split(",")}
    if max(wanted) >= classes:
        raise MarketError(f"the profile {profile!r} names a class that does not exist; accepted are 0 to {classes - 1}")
    return [1.0 if label in wanted else 0.0 for label in range(classes)]


def pack(state: Mapping[str, Any]) -> bytes:
    """Return an optimiser's state as bytes."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, Any]:
    """Return the optimiser's state that :func:`pack` was given."""
    return dict(torch.load(io.BytesIO(data), weights_only=True))
