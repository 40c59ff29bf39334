"""Gradient steps on the fit split that a held-out part of it stops."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_market.data import Batch
from fl_market.gains.losses import Loss
from fl_market.parameters import StateDict

HELD_OUT = 0.2
"""Share of the fit split on which the gradient steps are stopped; the steps see the rest."""
HELD_OUT_EVERY = 5
"""Steps on batches between two evaluations of the held-out part; other steps are all evaluated."""

Variables = Mapping[str, Tensor]
"""Name -> a leaf tensor that requires a gradient."""


@dataclass(frozen=True)
class Descent:
    """The best point of a descent.

    Attributes
    ----------
    variables
        Values of the variables there, or at the start where no held-out loss was finite.
    loss
        Mean held-out loss there, or infinity.
    """

    variables: dict[str, Tensor]
    loss: float


def descend(
    variables: Variables,
    model: Callable[[Variables], StateDict],
    loss: Loss,
    fit_data: Batch,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int = 0,
) -> Descent:
    """Take Adam steps, and return the point with the least held-out loss.

    Parameters
    ----------
    variables
        What the steps change, in place: they are left where the last step took them.
    model
        The state dict that the variables stand for, differentiable in them.
    loss
        Losses of a state dict on a batch, one for each sample.
    fit_data
        The fit split: the steps see all but its held-out part.
    steps, learning_rate
        Adam's.
    batch_size
        Samples of each step, in turn; 0 for all.
    """
    seen, held_out = hold_out(fit_data)
    batches = whole_batches(seen, batch_size)
    optimiser = torch.optim.Adam(variables.values(), lr=learning_rate)
    best, least = {name: tensor.detach().clone() for name, tensor in variables.items()}, float("inf")
    for step in range(steps + 1):
        state = model(variables)
        if step == steps or not batch_size or step % HELD_OUT_EVERY == 0:
            with torch.no_grad():
                held_out_loss = float(loss(state, held_out).mean())
            if held_out_loss < least:
                least = held_out_loss
                for name, tensor in variables.items():
                    best[name].copy_(tensor.detach())
        if step < steps:
            optimiser.zero_grad()
            loss(state, batches[step % len(batches)]).mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return Descent(best, least)


def hold_out(fit_data: Batch) -> tuple[Batch, Batch]:
    """Return the part of the fit split that gradient steps see, and the part that stops them."""
    count = len(fit_data[0])
    cut = count - max(1, round(HELD_OUT * count))
    return tuple(part[:cut] for part in fit_data), tuple(part[cut:] for part in fit_data)


def whole_batches(data: Batch, batch_size: int) -> list[Batch]:
    """Return whole batches of some size, or all data in one for the size 0 or too large a size."""
    count = len(data[0]) // batch_size if batch_size else 0
    if count < 1:
        return [data]
    return [tuple(part[place * batch_size : (place + 1) * batch_size] for part in data) for place in range(count)]
