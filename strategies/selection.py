"""Scores of the agents' final models on the broker's data.

They choose learning rates: the test set decides nothing. Only the certify split is used, because
the fit split has had gradient steps in some arms.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_market.data import Batch, with_labels
from fl_market.errors import MarketError
from fl_market.gains import ModelLoss, Profile, check_validation
from fl_market.hardware import Hardware
from fl_market.parameters import StateDict, check_parameters, digest
from fl_market.seeds import reproducible
from fl_market.tasks import Task


@dataclass(frozen=True)
class FinalModel:
    """An agent's model after the last round, and the objective that it judges models by.

    Attributes
    ----------
    state
        The parameters.
    profile
        The description of its objective; None for the common one.
    """

    state: StateDict
    profile: Profile | None = None


@dataclass(frozen=True)
class Score:
    """Mean loss and accuracy of a model under its agent's objective.

    The loss is None if it is not finite.
    """

    loss: float | None
    accuracy: float


def score_models(
    models: Mapping[str, FinalModel], task: Task, certify: Batch, *, seed: int, hardware: Hardware
) -> dict[str, Score]:
    """Return each agent's score; agents whose profile is invalid are left out.

    Parameters
    ----------
    models
        Agent -> its final model.
    task
        The task, with all classes.
    certify
        The broker's certify split.
    seed
        Seed of the evaluation.
    hardware
        Device and precision.
    """
    computed: dict[tuple[str, tuple[int, ...]], Tensor] = {}
    scores = {}
    for agent, final in models.items():
        profile = final.profile or Profile()
        try:
            classes = _classes(profile, task)
            data = with_labels(certify, profile.labels) if profile.labels else certify
            state = _cast(final.state, task.build(classes).state_dict())
            if profile.validation is not None:
                check_validation(profile.validation, data, classes)
                data = profile.validation
                values = _measured(state, task, data, classes, seed, hardware)
            else:
                key = digest(state), profile.labels
                if key not in computed:  # averaging arms end with one model for all agents
                    computed[key] = _measured(state, task, data, classes, seed, hardware)
                values = computed[key]
            scores[agent] = _weighted(values, data[1], profile, classes)
        except MarketError:
            continue
    return scores


def _classes(profile: Profile, task: Task) -> int:
    """Return the number of outputs of an agent's model, after a check of its label space."""
    labels = profile.labels
    if not labels:
        return task.classes
    if list(labels) != sorted(set(labels)) or not 0 <= labels[0] <= labels[-1] < task.classes:
        raise MarketError(f"labels must be classes from 0 to {task.classes - 1}, in ascending order; got {labels}")
    return len(labels)


def _cast(state: StateDict, template: StateDict) -> StateDict:
    """Return a model in the dtypes of its template, for some averages of Flower's are double."""
    cast = {name: tensor.to(template[name].dtype) if name in template else tensor for name, tensor in state.items()}
    check_parameters(cast, template)
    return cast


class _LossAndHit(nn.Module):
    """Loss and correctness of each sample, shape (samples, 2), in one pass over the data."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self._criterion = criterion

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([self._criterion(outputs, targets), (outputs.argmax(1) == targets).float()], 1)


def _measured(state: StateDict, task: Task, data: Batch, classes: int, seed: int, hardware: Hardware) -> Tensor:
    """Return loss and correctness of each sample, shape (samples, 2)."""
    measure = ModelLoss(task.build(classes), _LossAndHit(task.criterion), hardware=hardware)
    with reproducible(seed, "selection"), torch.no_grad():
        return measure(hardware.place_state(state), hardware.place(*data)).cpu()


def _weighted(values: Tensor, targets: Tensor, profile: Profile, classes: int) -> Score:
    weights = torch.tensor(profile.class_weights or [1.0] * classes, dtype=torch.float64)
    if weights.shape != (classes,) or not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise MarketError(f"a profile must be {classes} class weights of at least 0, one for each class")
    shares = weights[targets]
    if not float(shares.sum()) > 0:
        raise MarketError("a profile must value some class of which the broker has data")
    loss, accuracy = ((shares[:, None] * values).sum(0) / shares.sum()).tolist()
    return Score(loss if math.isfinite(loss) else None, accuracy)
