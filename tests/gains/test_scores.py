"""Scores after calibration."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fl_market.errors import MarketError
from fl_market.gains import ModelLoss, Objective, weighted_objective
from fl_market.gains.scores import scores_of, temperature


def outputs(count=400, classes=4, scale=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (count,), generator=generator)
    return scale * (torch.randn(count, classes, generator=generator) + nn.functional.one_hot(targets, classes)), targets


def brute_force(logits, targets, warmth):
    """Return half the Brier score of each sample, by its definition."""
    found = []
    for row, target in zip(logits.double().numpy() / warmth, targets.tolist(), strict=True):
        chances = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        found.append(sum((chance - (k == target)) ** 2 for k, chance in enumerate(chances)) / 2)
    return found


@pytest.mark.parametrize("warmth", [0.5, 1.0, 3.0])
def test_brier_and_errors_against_their_definitions(warmth):
    logits, targets = outputs()
    found = scores_of(logits, targets, torch.zeros(len(targets)), warmth)
    assert found.brier.numpy() == pytest.approx(brute_force(logits, targets, warmth))
    assert found.error.tolist() == [float(row.argmax() != target) for row, target in zip(logits, targets, strict=True)]
    assert 0 <= float(found.brier.min()) <= float(found.brier.max()) <= found.highest == 1


def test_the_temperature_is_the_best_of_a_fine_grid():
    logits, targets = outputs(scale=5.0)
    grid = np.geomspace(0.05, 20, 2000)
    losses = [float(nn.functional.cross_entropy(logits.double() / warmth, targets)) for warmth in grid]
    assert temperature(logits, targets) == pytest.approx(grid[int(np.argmin(losses))], rel=0.01)


def test_samples_have_weights_in_the_temperature_and_in_the_scores():
    logits, targets = outputs()
    weights = torch.where(targets == 0, 2.0, 0.5)
    weights = weights / weights.mean()
    repeated = torch.cat([logits[targets == 0]] * 3 + [logits]), torch.cat([targets[targets == 0]] * 3 + [targets])
    assert temperature(logits, targets, weights) == pytest.approx(temperature(*repeated), rel=1e-3)
    plain = scores_of(logits, targets, torch.zeros(len(targets)), 2.0)
    weighted = scores_of(logits, targets, torch.zeros(len(targets)), 2.0, weights)
    assert torch.allclose(weighted.brier, plain.brier * weights)
    assert weighted.highest == float(weights.max()) > 1


def test_an_output_that_overflows_has_the_worst_scores():
    logits, targets = outputs(count=4)
    logits[1, 0] = float("inf")
    logits[2, 1] = float("nan")
    assert temperature(logits, targets) == 1.0
    found = scores_of(logits, targets, torch.zeros(4), 1.0)
    assert found.brier[1:3].tolist() == [1.0, 1.0]
    assert found.error[1:3].tolist() == [1.0, 1.0]
    assert bool(torch.isfinite(found.brier).all())


class Scaled(nn.Module):
    """Outputs that are the inputs times a factor."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        return self.factor * inputs


@given(st.floats(0.3, 4.0))
def test_a_temperature_changes_no_score(factor):
    """A seller is paid for no division of the outputs."""
    fit, certify = outputs(seed=1), outputs(seed=2)
    loss = ModelLoss(Scaled(), nn.CrossEntropyLoss(reduction="none"))
    objective = Objective(loss, fit, certify, classifier=loss)
    plain, scaled = (objective.scores({"factor": torch.tensor(value)}) for value in (1.0, factor))
    assert torch.allclose(plain.brier, scaled.brier, atol=1e-3)
    assert torch.equal(plain.error, scaled.error)


def test_an_objective_with_class_weights_scores_its_own_classes():
    fit, certify = outputs(seed=1), outputs(seed=2)
    loss = ModelLoss(Scaled(), nn.CrossEntropyLoss(reduction="none"))
    own = weighted_objective(Objective(loss, fit, certify, classifier=loss), (1.0, 1.0, 0.0, 0.0))
    found = own.scores({"factor": torch.tensor(1.0)})
    assert len(found.brier) == int((certify[1] < 2).sum())
    assert torch.allclose(found.loss, own.loss({"factor": torch.tensor(1.0)}, own.certify))


def test_without_a_classifier_there_are_no_scores():
    data = outputs()
    with pytest.raises(MarketError, match="need a classifier"):
        Objective(lambda state, batch: batch[0].mean(1), data, data).scores({})
