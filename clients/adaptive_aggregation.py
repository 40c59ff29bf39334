r"""FedALA's adaptive local aggregation (Zhang et al., *FedALA*, AAAI 2023), for the arm ``fedala``.

An agent does not overwrite its model with the global one. Its lower layers take the global
parameters. Its last layer becomes :math:`\theta_i + (\theta - \theta_i) \odot W`; the weights
:math:`W \in [0, 1]`, one for each parameter, are learned on a part of the agent's training data.
Constants are those of the authors' code.
"""

from collections.abc import Sequence
from statistics import pstdev

import torch
from torch import Tensor, nn

from fl_market.data import Batch
from fl_market.hardware import CPU, Hardware, channels_last
from fl_market.parameters import StateDict, load_parameters
from fl_market.seeds import torch_generator

ADAPTED = 2
"""Tensors, counted from the last, that are adapted: weight and bias of the last layer."""
SHARE = 0.8
"""Share of the training data on which the weights are learned."""
LEARNING_RATE = 1.0
WINDOW, TOLERANCE, MOST_EPOCHS = 10, 0.1, 50
"""The first round learns until the last epochs' losses hardly differ; later rounds, one epoch."""


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
    model, criterion
        The architecture, on the device already, which is changed; losses of (outputs, targets).
    own, common
        The agent's parameters after local training, and the global ones.
    weights
        Those of the last round; None for the first.
    data, batch_size
        The agent's training data, and samples in a batch.
    seed, purpose, hardware
        Name of the random stream that picks the data; device and precision.
    """
    load_parameters(model, common)
    layer = _AdaptedLayer(model, own, common, hardware)
    shares = layer.whole_step() if weights is None else list(hardware.place(*weights))
    if not layer.differs:
        return dict(common), [share.cpu() for share in shares]
    generator = torch_generator(seed, *purpose)
    chosen = torch.randperm(len(data[0]), generator=generator)[: max(1, round(SHARE * len(data[0])))]
    inputs, targets = hardware.place(*(part[chosen] for part in data))
    layer.set(shares)
    model.eval()  # as the authors do: norms keep the global statistics
    losses: list[float] = []
    while len(losses) < (1 if weights is not None else MOST_EPOCHS):
        for part, labels in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):  # type: ignore[no-untyped-call]
            with hardware.autocast():
                outputs = model(channels_last(part))
            loss = criterion(outputs.float(), labels).mean()
            shares = layer.descend(shares, torch.autograd.grad(loss, layer.parameters))
        losses.append(float(loss.detach()))
        if len(losses) > WINDOW and pstdev(losses[-WINDOW:]) < TOLERANCE:
            break
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}, [share.cpu() for share in shares]


class _AdaptedLayer:
    """The last layer's parameters: the agent's own plus a share of the step to the global ones."""

    def __init__(self, model: nn.Module, own: StateDict, common: StateDict, hardware: Hardware) -> None:
        named = list(model.named_parameters())[-ADAPTED:]
        self.parameters = [parameter for _, parameter in named]
        self._start = [own[name].to(hardware.device) for name, _ in named]
        self._step = [
            common[name].to(hardware.device) - origin for (name, _), origin in zip(named, self._start, strict=True)
        ]

    @property
    def differs(self) -> bool:
        """Whether the agent's parameters and the global ones differ at all."""
        return any(bool(part.any()) for part in self._step)

    def whole_step(self) -> list[Tensor]:
        """Return the weights that take the global parameters."""
        return [torch.ones_like(part) for part in self._step]

    @torch.no_grad()
    def set(self, shares: Sequence[Tensor]) -> None:
        """Set the parameters by their weights."""
        for parameter, origin, step, share in zip(self.parameters, self._start, self._step, shares, strict=True):
            parameter.copy_(origin + step * share)

    def descend(self, shares: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """Set the parameters by the weights after one gradient step, and return these weights."""
        improved = [
            (share - LEARNING_RATE * gradient * step).clamp(0, 1)
            for share, gradient, step in zip(shares, gradients, self._step, strict=True)
        ]
        self.set(improved)
        return improved
