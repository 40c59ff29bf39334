"""Partial purchases by output rows, for layers that exceed a budget as a whole.

A layer that holds most of a network's parameters cannot be part of any smaller purchase as a whole;
its rows can. The contribution of a row is found by integrated gradients (Sundararajan, Taly and Yan
2017). The gain of a purchase is the integral of the loss' gradient along the way from nothing to
all purchased weights, and falls apart into one term for each row.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

POINTS = 5
"""Points on the way at which gradients are taken: the midpoints of as many equal parts."""

Rows = Mapping[str, Tensor]
"""Layer -> one number for each of its output rows."""


def row_gains(weights: Rows, mean_loss: Callable[[Rows], Tensor]) -> dict[str, Tensor]:
    """Return by how much each row lowers the loss.

    Parameters
    ----------
    weights
        Purchased weight of each row, shape (rows,) for each layer.
    mean_loss
        Mean loss of a purchase, differentiable in its weights.

    Returns
    -------
    dict
        Of the same shapes. Their sum is, up to the error of the integration, the loss of nothing
        bought less that of all.
    """
    gains = {layer: torch.zeros_like(some) for layer, some in weights.items()}
    for point in range(POINTS):
        part = (point + 0.5) / POINTS
        inputs = {layer: (part * some.detach()).requires_grad_() for layer, some in weights.items()}
        gradients = torch.autograd.grad(mean_loss(inputs), list(inputs.values()), allow_unused=True)
        for layer, gradient in zip(inputs, gradients, strict=True):
            if gradient is not None:
                gains[layer] -= weights[layer].detach() * gradient / POINTS
    return gains


def best_rows(budget: int, gains: Rows, sizes: Mapping[str, float]) -> dict[str, Tensor]:
    """Return the rows to buy: those of the greatest gain per parameter that fit into the budget.

    Parameters
    ----------
    budget
        Number of parameters that can be paid for.
    gains
        As :func:`row_gains` returns them.
    sizes
        Layer -> parameters of one of its rows.

    Returns
    -------
    dict
        Layer -> 1 for each row that is bought and 0 for each other, shape (rows,).
    """
    chosen = {layer: torch.zeros_like(some) for layer, some in gains.items()}
    ranked = sorted(
        ((float(gain) / sizes[layer], layer, row) for layer, some in gains.items() for row, gain in enumerate(some)),
        key=lambda entry: (-entry[0], entry[1], entry[2]),
    )
    left = float(budget)
    for gain, layer, row in ranked:
        if gain > 0 and sizes[layer] <= left:
            chosen[layer][row] = 1.0
            left -= sizes[layer]
    return chosen
