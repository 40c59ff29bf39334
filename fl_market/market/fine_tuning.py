"""Gated fine-tuning: the broker's data and steps without any seller.

No purchase, but the control that every purchase must be measured against: the part of a gain that
the broker's labels bring alone. The steps are judged on a held-out part of the fit split, not on
the certify split: an agent sees in each round what it gets, and could learn the split from that.
"""

from collections.abc import Collection

import torch

from fl_market.gains import Objective
from fl_market.hardware import CPU, Hardware
from fl_market.merging.fine_tuning import fine_tune
from fl_market.parameters import StateDict
from fl_market.seeds import reproducible


def fine_tuned(
    state: StateDict,
    objective: Objective,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int = 0,
    layers: Collection[str] | None = None,
    hardware: Hardware = CPU,
) -> StateDict:
    """Return the parameters with the least held-out loss after some steps on the fit split.

    Parameters
    ----------
    state
        Parameters of a model; returned as they are if no step gains on the held-out part.
    objective
        Loss and fit split.
    steps, learning_rate
        Adam's.
    batch_size, layers
        As :func:`fl_market.merging.fine_tune` takes them.
    hardware
        Device and precision of the steps.
    """
    placed = hardware.place_state(state)
    with reproducible(0, "fedavg-tuned"):
        tuned = fine_tune(
            placed,
            objective.loss,
            objective.fit,
            steps=steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            layers=layers,
        )
    if all(torch.equal(tensor, placed[name]) for name, tensor in tuned.items()):
        return state
    home = next(iter(state.values())).device
    return {name: tensor.to(home) for name, tensor in tuned.items()}
