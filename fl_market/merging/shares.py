"""Purchased weights of many layers or rows, as sigmoids of logits that gradient steps change."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fl_market.merging.layers import layer_of
from fl_market.merging.rows import Rows
from fl_market.parameters import StateDict


class Shares:
    """Logits of one α for each layer, or for each output row of each layer.

    Parameters
    ----------
    state
        The buyer's parameters: their layers and shapes.
    start
        The single α that all logits start from, in (0, 1].
    by_row
        One α for each output row, rather than for each layer.

    Attributes
    ----------
    logits
        Layer -> shape (rows,), or (1,).
    """

    def __init__(self, state: StateDict, start: float, *, by_row: bool) -> None:
        self._state = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
        rows: dict[str, int] = defaultdict(lambda: 1)
        if by_row:
            for name, tensor in self._state.items():
                if tensor.dim():
                    rows[layer_of(name)] = max(rows[layer_of(name)], tensor.shape[0])
        logit = float(np.log(start) - np.log1p(-min(start, 0.999)))
        device = next(iter(self._state.values())).device
        self.logits = {
            layer: torch.full((rows[layer],), logit, device=device, requires_grad=True)
            for layer in dict.fromkeys(map(layer_of, self._state))
        }
        self._bought: Rows = {layer: torch.ones_like(logits) for layer, logits in self.logits.items()}

    def only(self, bought: Rows) -> None:
        """Buy some rows only: 1 for each of them, 0 for others and for layers without an entry."""
        self._bought = {layer: bought.get(layer, torch.zeros_like(some)) for layer, some in self.logits.items()}

    def weights(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weight of each layer or row that some logits stand for."""
        return {layer: torch.sigmoid(some) * self._bought[layer] for layer, some in logits.items()}

    def row_sizes(self) -> dict[str, float]:
        """Return the parameters of one row of each layer."""
        sizes = dict.fromkeys(self.logits, 0.0)
        for name, tensor in self._state.items():
            sizes[layer_of(name)] += tensor.numel() / len(self.logits[layer_of(name)])
        return sizes

    def alpha(self, weights: Rows) -> dict[str, Tensor]:
        """Return weights of layers or rows, each in a shape that broadcasts against its tensor."""
        return {name: _broadcast(weights[layer_of(name)], tensor) for name, tensor in self._state.items()}


def _broadcast(alpha: Tensor, tensor: Tensor) -> Tensor:
    if len(alpha) > 1 and (not tensor.dim() or tensor.shape[0] != len(alpha)):
        alpha = alpha.mean(0, keepdim=True)
    return alpha.reshape(-1, *[1] * (tensor.dim() - 1)) if tensor.dim() else alpha.reshape(())
