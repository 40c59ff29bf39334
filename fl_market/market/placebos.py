"""Placebo sellers: parameters that know nothing about the task.

A gain that a buyer also has with one of them comes from the merge and from the broker's data, and
not from a seller.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fl_market.parameters import StateDict, copied

TINY = 1e-6
"""Standard deviation of the parameters of ``zeros``; a matching needs some order of the units."""


def placebos(model: nn.Module, own: StateDict) -> Iterator[tuple[str, StateDict]]:
    """Yield placebo sellers for one buyer by name; torch's global generator draws them.

    Parameters
    ----------
    model
        The buyer's architecture.
    own
        Its parameters.

    Yields
    ------
    tuple
        ``"untrained"``, a new initialisation; ``"zeros"``; ``"noise"``, each tensor with the norm
        of the buyer's. Buffers are the buyer's own: running statistics of noise have no meaning.
    """
    parameters = {name for name, _ in model.named_parameters()}

    def drawn(make: dict[str, Tensor]) -> StateDict:
        return copied(own) | make

    fresh = _initialised(model)
    yield "untrained", drawn({name: fresh.pop(name).to(own[name]) for name in parameters})
    yield "zeros", drawn({name: TINY * _normal(own[name]) for name in sorted(parameters)})
    yield "noise", drawn({name: _noise_like(own[name]) for name in sorted(parameters)})


def _initialised(model: nn.Module) -> dict[str, Tensor]:
    fresh = copy.deepcopy(model).cpu()
    for module in fresh.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return {name: tensor.detach() for name, tensor in fresh.state_dict().items()}


def _normal(tensor: Tensor) -> Tensor:
    return torch.randn(tensor.shape).to(tensor)  # drawn on the processor: the same on every device


def _noise_like(tensor: Tensor) -> Tensor:
    # in double precision, and within the range of the type: absurd finite parameters stay finite
    noise, limit = _normal(tensor).double(), torch.finfo(tensor.dtype).max
    scale = torch.linalg.vector_norm(tensor.double()) / torch.linalg.vector_norm(noise).clamp(min=1e-12)
    scaled: Tensor = (noise * scale).clamp(-limit, limit).to(tensor)
    return scaled
