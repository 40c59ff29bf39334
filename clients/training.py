"""Local training and evaluation of one model."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fl_market.data import Batch, batches_of
from fl_market.errors import MarketError
from fl_market.gains import batch_size_for
from fl_market.hardware import CPU, Hardware, channels_last
from fl_market.seeds import torch_generator


def make_optimiser(model: nn.Module, name: str, learning_rate: float, momentum: float) -> torch.optim.Optimizer:
    """Return an optimiser: ``"sgd"``, or ``"adam"``, which ignores the momentum."""
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr=learning_rate)
    return torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)


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
    augment: Callable[[Tensor], Tensor] | None = None,
    proximal_mu: float = 0.0,
    hardware: Hardware = CPU,
) -> float:
    """Train in place (the paper's local update) and return the mean loss of the last epoch.

    Parameters
    ----------
    model, optimiser
        Both are changed; they are on the device already.
    criterion, data
        Losses of (outputs, targets), one for each sample; inputs and targets.
    epochs, batch_size
        Passes over the data, and samples in a batch; see :func:`fl_market.data.batches_of`.
    seed, purpose
        Name the random stream that shuffles the data.
    augment, proximal_mu, hardware
        Random change of a batch of inputs; weight of FedProx' term, which keeps the parameters near
        their start (Li et al. 2020); device and precision.

    Raises
    ------
    MarketError
        If there are no data, or one sample alone is to train BatchNorm.
    """
    inputs, targets = hardware.place(*data)
    if not len(inputs):
        raise MarketError("the agent has no training data; raise scarce-share or lower agents")
    generator = torch_generator(seed, *purpose)
    model.train()
    start = [parameter.detach().clone() for parameter in model.parameters()] if proximal_mu else []
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        for batch in batches_of(torch.randperm(len(inputs), generator=generator), batch_size):
            images = inputs[batch] if augment is None else augment(inputs[batch])
            losses = criterion(_training_outputs(model, images, hardware), targets[batch])
            _step(model, optimiser, losses.mean(), start, proximal_mu)
            total += float(losses.detach().sum())
    return total / len(inputs)


@torch.no_grad()
def evaluate(
    models: Sequence[nn.Module],
    criterion: nn.Module,
    data: Batch,
    class_weights: Sequence[float] = (),
    hardware: Hardware = CPU,
) -> tuple[float, float, float]:
    """Return mean loss, accuracy, and accuracy on the agent's target distribution of classes.

    Parameters
    ----------
    models
        On the device already; several are an ensemble, which averages probabilities.
    criterion
        Losses of (outputs, targets), one for each sample.
    data
        Inputs and targets.
    class_weights
        The target distribution; by default that of the data.
    hardware
        Device and precision.
    """
    inputs, targets = hardware.place(*data)
    batch_size = batch_size_for(models[0].eval(), inputs)
    parts = [_ensemble_outputs(models, part, hardware) for part in torch.split(inputs, batch_size)]
    labels = torch.split(targets, batch_size)
    loss = math.fsum(float(criterion(*part).sum()) for part in zip(parts, labels, strict=True))
    right = torch.cat(parts).argmax(1) == targets
    accuracy = int(right.sum()) / len(targets)
    if not class_weights:
        return loss / len(targets), accuracy, accuracy
    weights = torch.tensor(class_weights, device=targets.device)[targets]
    return loss / len(targets), accuracy, float((weights * right).sum() / weights.sum())


def _ensemble_outputs(models: Sequence[nn.Module], inputs: Tensor, hardware: Hardware) -> Tensor:
    outputs = [_outputs(model.eval(), inputs, hardware) for model in models]
    if len(outputs) == 1:
        return outputs[0]
    return torch.stack([part.softmax(1) for part in outputs]).mean(0).log()


def _step(
    model: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor, start: Sequence[Tensor], proximal_mu: float
) -> None:
    for parameter, origin in zip(model.parameters() if start else (), start, strict=True):
        loss = loss + proximal_mu / 2 * (parameter - origin).square().sum()
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def _training_outputs(model: nn.Module, inputs: Tensor, hardware: Hardware) -> Tensor:
    try:
        return _outputs(model, inputs, hardware)
    except ValueError as error:  # BatchNorm of convolutions averages over pixels too, and may do with one sample
        if len(inputs) == 1 and any(isinstance(module, _BatchNorm) for module in model.modules()):
            raise MarketError(
                "one sample cannot train BatchNorm; give the agent two samples or more, and a batch-size of at least 2"
            ) from error
        raise


def _outputs(model: nn.Module, inputs: Tensor, hardware: Hardware) -> Tensor:
    with hardware.autocast():
        outputs: Tensor = model(channels_last(inputs))
    return outputs.float()
