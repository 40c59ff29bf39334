"""Fair selling: what was bought cannot be sold again as one's own.

The broker knows what it delivered. A seller whose parameters are those of a delivery, in any order of the units, has
nothing of its own to sell.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fl_market.parameters import StateDict
from fl_market.permutation import PermutationSpec, apply_permutation, match


def novelty(spec: PermutationSpec, model: StateDict, delivered: Iterable[StateDict], threshold: float) -> float:
    """Return how far a model is from the nearest delivery, as a share of that delivery's norm.

    Parameters
    ----------
    spec
        What may be permuted: a reseller may reorder the units.
    model
        What an agent would sell.
    delivered
        What the broker delivered.
    threshold
        Where it is certain that a delivery is farther than this, no alignment is tried, and the result is a lower bound
        of the distance: that of the norms or of the sorted values, which no order of the units can undercut.

    Returns
    -------
    float
        Infinite where nothing was delivered.
    """
    nearest = float("inf")
    for state in delivered:
        distance = _distance(state, model, torch.linalg.vector_norm)
        if distance <= threshold:
            distance = _distance(state, model, _sorted)
        if distance <= threshold:
            distance = _distance(state, apply_permutation(spec, match(spec, state, model), model), torch.flatten)
        nearest = min(nearest, distance)
    return nearest


def _distance(delivered: StateDict, model: StateDict, view: Callable[[Tensor], Tensor]) -> float:
    """Return the distance of all floating-point parameters as a view shows them, relative to the delivery's norm."""
    apart = norm = 0.0
    for name, tensor in delivered.items():
        if tensor.is_floating_point():
            own, other = (state[name].detach().double() for state in (delivered, model))
            apart += float((view(own) - view(other)).square().sum())
            norm += float(own.square().sum())
    return (apart / norm) ** 0.5 if norm else float(apart > 0)


def _sorted(tensor: Tensor) -> Tensor:
    return tensor.flatten().sort().values
