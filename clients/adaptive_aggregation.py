r"""FedALA's adaptive local aggregation (Zhang et al., *FedALA*, AAAI 2023), for the arm ``fedala``.

An agent does not overwrite its model with the global one. Its lower layers take the global parameters; of the last
layer it takes :math:`\theta_i + (\theta - \theta_i) \odot W`, and learns the weights :math:`W \in [0, 1]`, one for each
parameter, on a part of its own training data. Constants are those of the authors' code.
"""

from collections.abc import Sequence
from statistics import pstdev

import torch
from torch import Tensor, nn

from fl_market.data import Batch
from fl_market.hardware import CPU, Hardware, channels_last
from fl_market.parameters import StateDict
from fl_market.seeds import torch_generator

ADAPTED = 2
"""Tensors, counted from the last, that are adapted: weight and bias of the last layer."""
SHARE = 0.8
"""Share of the training data that the weights are learned on."""
LEARNING_RATE = 1.0
WINDOW, TOLERANCE, MOST_EPOCHS = 10, 0.1, 50
"""At first the weights are learned until the loss of the last epochs hardly changes; later, for one epoch."""


def adapt(
    model: nn.Module,
    criterion: nn.Module,
    own: StateDict,
    common: StateDict,
    weights: list[Tensor] | None,
    data: Batch,
    *,
    batch_size: int,
    seed: int,
    purpose: tuple[str | int, ...],
    hardware: Hardware = CPU,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return an agent's model for the next round, and its weights.

    Parameters
    ----------
    model
        The architecture, on the device already; it is changed.
    criterion
        Losses of (outputs, targets), one for each sample.
    own, common
        The agent's parameters after local training, and the global ones.
    weights
        Those of the last time; None for the first.
    data
        The agent's training data.
    batch_size
        In which portions it is seen.
    seed, purpose
        Name the random stream that picks the data.
    hardware
        Where to learn the weights, and how precisely.
    """
    model.load_state_dict(common)
    names = [name for name, _ in model.named_parameters()][-ADAPTED:]
    adapted = [dict(model.named_parameters())[name] for name in names]
    start = [own[name].to(hardware.device) for name in names]
    step = [common[name].to(hardware.device) - origin for name, origin in zip(names, start, strict=True)]
    shares = [torch.ones_like(part) for part in step] if weights is None else list(hardware.place(*weights))
    if not any(bool(part.any()) for part in step):
        return dict(common), [share.cpu() for share in shares]
    generator = torch_generator(seed, *purpose)
    chosen = torch.randperm(len(data[0]), generator=generator)[: max(1, round(SHARE * len(data[0])))]
    inputs, targets = hardware.place(*(part[chosen] for part in data))
    _take(adapted, start, step, shares)
    model.eval()  # as the authors do: norms keep the global statistics
    losses: list[float] = []
    while len(losses) < (1 if weights is not None else MOST_EPOCHS):
        for part, labels in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):  # type: ignore[no-untyped-call]
            with hardware.autocast():
                outputs = model(channels_last(part))
            loss = criterion(outputs.float(), labels).mean()
            gradients = torch.autograd.grad(loss, adapted)
            shares = [
                (share - LEARNING_RATE * gradient * way).clamp(0, 1)
                for share, gradient, way in zip(shares, gradients, step, strict=True)
            ]
            _take(adapted, start, step, shares)
        losses.append(float(loss.detach()))
        if len(losses) > WINDOW and pstdev(losses[-WINDOW:]) < TOLERANCE:
            break
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}, [share.cpu() for share in shares]


@torch.no_grad()
def _take(adapted: Sequence[Tensor], start: Sequence[Tensor], step: Sequence[Tensor], shares: Sequence[Tensor]) -> None:
    for parameter, origin, way, share in zip(adapted, start, step, shares, strict=True):
        parameter.copy_(origin + way * share)
