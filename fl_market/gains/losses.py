"""Losses of a candidate model on the broker's data, one for each sample."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fl_market.data import Batch
from fl_market.hardware import CPU, Hardware, channels_last
from fl_market.observation import Call, observe
from fl_market.parameters import StateDict

ACTIVATIONS = 2**21
"""Numbers in the output of one layer at a time: 8 MiB in single precision, a processor's cache."""
ACTIVATIONS_ON_DEVICE = 2**29
"""The same on an accelerator, which is fast on large batches."""


class Loss(Protocol):
    """The losses of a state dict on a batch."""

    def __call__(self, state: StateDict, data: Batch) -> Tensor:
        """Return one loss for each sample, shape (samples,), differentiable in the state dict."""


@torch.no_grad()
def batch_size_for(model: nn.Module, inputs: Tensor) -> int:
    """Return the batch size at which activations stay in the processor's cache.

    Evaluation on larger batches is up to three times slower: each layer fetches its inputs from the
    system's memory.

    Parameters
    ----------
    model
        The architecture; it runs once, in evaluation mode.
    inputs
        Samples, of which two are enough.
    """
    limit = ACTIVATIONS if inputs.device.type == "cpu" else ACTIVATIONS_ON_DEVICE
    sizes = [1]

    def note(call: Call) -> None:
        if isinstance(call.output, Tensor):
            sizes.append(call.output.numel())

    leaves = [name for name, module in model.named_modules() if not [*module.children()]]
    observe(model, model.state_dict(), inputs[:2], note, of=leaves)
    return max(1, limit * len(inputs[:2]) // max(sizes))


class ModelLoss:
    """A :class:`Loss` from an architecture, whose own parameters stay as they are, and a criterion.

    Parameters
    ----------
    model
        The architecture; it is evaluated in evaluation mode.
    criterion
        As ``torch.nn.CrossEntropyLoss(reduction="none")``: (outputs, targets) to losses, one for
        each sample.
    batch_size
        Samples evaluated at a time; by default :func:`batch_size_for` decides.
    hardware
        Device of state dicts and batches, and the precision of the computation.
    """

    def __init__(
        self, model: nn.Module, criterion: nn.Module, batch_size: int | None = None, hardware: Hardware = CPU
    ) -> None:
        self.model = model.to(hardware.device).eval()
        self.criterion = criterion
        self.batch_size = batch_size
        self.hardware = hardware
        self._buffers = {name for name, _ in model.named_buffers()}

    def __call__(self, state: StateDict, data: Batch) -> Tensor:
        """Return one loss for each sample, shape (samples,)."""
        values, size = self._values(state), self._batch_size(data)
        parts = zip(*(torch.split(part, size) for part in data), strict=True)
        return torch.cat([self.criterion(self._outputs(values, inputs), targets) for inputs, targets in parts])

    @torch.no_grad()
    def outputs(self, state: StateDict, data: Batch) -> Tensor:
        """Return the model's outputs, one row for each sample."""
        values = self._values(state)
        return torch.cat([self._outputs(values, inputs) for inputs in torch.split(data[0], self._batch_size(data))])

    def _values(self, state: StateDict) -> StateDict:
        # running statistics are no parameters: PyTorch's BatchNorm has no gradient in them
        return {name: tensor.detach() if name in self._buffers else tensor for name, tensor in state.items()}

    def _batch_size(self, data: Batch) -> int:
        if self.batch_size is None:
            self.batch_size = batch_size_for(self.model, data[0])
        return self.batch_size

    def _outputs(self, values: StateDict, inputs: Tensor) -> Tensor:
        with self.hardware.autocast():
            outputs: Tensor = functional_call(self.model, dict(values), (channels_last(inputs),), tie_weights=False)
        return outputs.float() if outputs.dtype is torch.bfloat16 else outputs
