"""FedFomo's first-order merge (Zhang et al. 2021, Eq. 3), for the arm ``fedfomo``."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fl_market.parameters import StateDict, copied


def merge_first_order(
    start: StateDict, own: StateDict, models: Sequence[StateDict], loss: Callable[[StateDict], float]
) -> dict[str, Tensor]:
    r"""Return an agent's parameters after a step towards the models that improve its own loss.

    Model n has the weight :math:`\max(0, (L(\theta) - L(\theta_n)) / \lVert\theta_n -
    \theta\rVert)`, divided by the sum of all.

    Parameters
    ----------
    start
        The agent's parameters before local training, :math:`\theta`.
    own
        Those after it: the result where no model is better.
    models
        Those of all agents, its own among them.
    loss
        Mean loss of a state dict on the agent's validation data.
    """
    before = loss(start)
    weights = [max(0.0, (before - loss(model)) / max(_distance(start, model), 1e-12)) for model in models]
    total = sum(weights)
    merged = copied(own)
    if not total:
        return merged
    for name, tensor in start.items():
        if tensor.is_floating_point():
            steps = [weight / total * (model[name] - tensor) for weight, model in zip(weights, models, strict=True)]
            merged[name] = tensor + torch.stack(steps).sum(0)
    return merged


def _distance(one: StateDict, other: StateDict) -> float:
    parts = [
        (other[name] - tensor).double().square().sum() for name, tensor in one.items() if tensor.is_floating_point()
    ]
    return float(torch.stack(parts).sum().sqrt())
