"""Protection against resale: agents cannot sell purchased parameters.

The broker knows the models that it delivered. A seller whose parameters match a delivered model, in
any order of the units, has nothing to sell.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fl_market.parameters import StateDict
from fl_market.permutation import PermutationSpec, apply_permutation, match


def novelty(spec: PermutationSpec, model: StateDict, delivered: Iterable[StateDict], threshold: float) -> float:
    """Return the distance of a model from the nearest delivery, as a share of that delivery's norm.

    Parameters
    ----------
    spec
        The permutable units: a reseller may reorder them.
    model
        The model that an agent would sell.
    delivered
        The models that the broker delivered.
    threshold
        Distance up to which the result is exact. Beyond it, the result may be a lower bound: the
        distance of the norms or of the sorted values, which hold for every order of the units.

    Returns
    -------
    float
        Infinite without deliveries.
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
    """Return the relative distance of all floating-point parameters under a view of each."""
    apart = norm = 0.0
    for name, tensor in delivered.items():
        if tensor.is_floating_point():
            own, other = (state[name].detach().double() for state in (delivered, model))
            apart += float((view(own) - view(other)).square().sum())
            norm += float(own.square().sum())
    return (apart / norm) ** 0.5 if norm else float(apart > 0)


def _sorted(tensor: Tensor) -> Tensor:
    return tensor.flatten().sort().values
