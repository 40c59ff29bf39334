"""Where models are computed, and how precisely."""

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
        Where tensors lie.
    mixed
        Whether matrix products and convolutions are computed in bfloat16 (mixed precision); parameters and losses stay
        in single precision.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mixed: bool = False

    def place(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return tensors on the device."""
        return tuple(tensor.to(self.device) for tensor in tensors)

    def autocast(self) -> torch.autocast:
        """Return the context in which models are to be evaluated."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed)


CPU = Hardware()


def find_hardware(device: str = "auto", precision: str = "auto") -> Hardware:
    """Return what a user's choice comes to on this machine.

    Parameters
    ----------
    device
        ``"auto"`` is CUDA where there is one.
    precision
        ``"float32"``, or ``"bfloat16"`` for mixed precision; ``"auto"`` is mixed on CUDA alone.

    Raises
    ------
    MarketError
        If there is no CUDA device where one is asked for.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise MarketError("device cannot be cuda: torch finds no CUDA device on this machine; accepted is cpu or auto")
    kind = "cuda" if available and device != "cpu" else "cpu"
    return Hardware(torch.device(kind), precision == "bfloat16" or (precision == "auto" and kind == "cuda"))


def channels_last(inputs: Tensor) -> Tensor:
    """Return images (samples, channels, height, width) in the memory layout that convolutions are fastest on."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs
