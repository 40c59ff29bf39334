"""Device and precision of the computation."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fl_market.errors import MarketError


@dataclass(frozen=True)
class Hardware:
    """A device and a precision.

    Attributes
    ----------
    device
        Device of all tensors.
    mixed
        Whether matrix products and convolutions are computed in bfloat16 (mixed precision).
        Parameters and losses stay in single precision.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mixed: bool = False

    def place(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return tensors on the device."""
        return tuple(tensor.to(self.device) for tensor in tensors)

    def place_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict with its tensors on the device."""
        return {name: tensor.to(self.device) for name, tensor in state.items()}

    def autocast(self) -> torch.autocast:
        """Return the context in which models are evaluated."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed)


CPU = Hardware()


def find_hardware(device: str = "auto", precision: str = "auto") -> Hardware:
    """Return the hardware that a user's choice means on this machine.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda"``, or ``"auto"`` for CUDA if there is a device.
    precision
        ``"float32"``, or ``"bfloat16"`` for mixed precision; ``"auto"`` is mixed on CUDA alone.

    Raises
    ------
    MarketError
        If ``device`` is CUDA and there is no such device.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise MarketError("device must be cpu or auto on this machine, where torch finds no CUDA device; got cuda")
    kind = "cuda" if available and device != "cpu" else "cpu"
    return Hardware(torch.device(kind), precision == "bfloat16" or (precision == "auto" and kind == "cuda"))


def channels_last(inputs: Tensor) -> Tensor:
    """Return images, shape (samples, channels, height, width), in the layout of fast convolutions.

    Other inputs are returned as they are.
    """
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs
