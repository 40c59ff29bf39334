"""Fine-tune a model on the broker's data: not a trade, but the control that FedAvg is entitled to."""

import torch
from torch import Tensor

from fl_market.data import Batch
from fl_market.gains.losses import Loss
from fl_market.merging.purchased_weight import hold_out
from fl_market.parameters import StateDict


def fine_tune(
    state: StateDict, loss: Loss, fit_data: Batch, *, steps: int = 40, learning_rate: float = 1e-3
) -> dict[str, Tensor]:
    """Return the parameters with the least loss on the held-out part of the fit split, after some Adam steps.

    Parameters
    ----------
    state
        Where to start; it is left as it is.
    loss
        Losses of a state dict on a batch, one for each sample.
    fit_data
        The fit split: the steps see all but its held-out part.
    steps, learning_rate
        Adam's.
    """
    seen, held_out = hold_out(fit_data)
    tuned = {name: tensor.detach().clone() for name, tensor in state.items()}
    weights = [tensor.requires_grad_() for tensor in tuned.values() if tensor.is_floating_point()]
    optimiser = torch.optim.Adam(weights, lr=learning_rate)
    best, best_loss = dict(state), float("inf")
    for step in range(steps + 1):
        with torch.no_grad():
            held_out_loss = float(loss(tuned, held_out).mean())
        if held_out_loss < best_loss:
            best = {name: tensor.detach().clone() for name, tensor in tuned.items()}
            best_loss = held_out_loss
        if step < steps:
            optimiser.zero_grad()
            loss(tuned, seen).mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return best
