"""Gated fine-tuning: the broker's data and steps without any seller.

No purchase, but the control that every purchase must be measured against: the part of a gain that
the broker's labels bring alone.
"""

from collections.abc import Collection

import torch

from fl_market.gains import Objective, certify
from fl_market.hardware import CPU, Hardware
from fl_market.merging.fine_tuning import fine_tune
from fl_market.parameters import StateDict
from fl_market.seeds import reproducible


def fine_tune_if_certified(
    state: StateDict,
    objective: Objective,
    *,
    steps: int,
    learning_rate: float,
    confidence: float,
    batch_size: int = 0,
    layers: Collection[str] | None = None,
    hardware: Hardware = CPU,
) -> StateDict:
    """Return the fine-tuned parameters if their gain is certified, else the given ones.

    Parameters
    ----------
    state
        Parameters of a model.
    objective
        Loss, fit split of the gradient steps, and certify split of the gate.
    steps, learning_rate
        Adam's.
    confidence
        Level of the gain's lower bound.
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
        with torch.no_grad():
            before, after = (objective.loss(model, objective.certify) for model in (placed, tuned))
    if not certify(before, after, confidence=confidence).positive:
        return state
    home = next(iter(state.values())).device
    return {name: tensor.to(home) for name, tensor in tuned.items()}
