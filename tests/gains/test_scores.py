"""Scores after calibration."""

import math

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
    plain, scaled = (objective.scores({"factor": torch.tensor(value)}).certify for value in (1.0, factor))
    assert torch.allclose(plain.brier, scaled.brier, atol=1e-3)
    assert torch.equal(plain.error, scaled.error)


def test_an_objective_with_class_weights_scores_its_own_classes():
    fit, certify = outputs(seed=1), outputs(seed=2)
    loss = ModelLoss(Scaled(), nn.CrossEntropyLoss(reduction="none"))
    own = weighted_objective(Objective(loss, fit, certify, classifier=loss), (1.0, 1.0, 0.0, 0.0))
    found = own.scores({"factor": torch.tensor(1.0)}).certify
    assert len(found.brier) == int((certify[1] < 2).sum())
    assert torch.allclose(found.loss, own.loss({"factor": torch.tensor(1.0)}, own.certify))


def test_without_a_classifier_there_are_no_scores():
    data = outputs()
    with pytest.raises(MarketError, match="need a classifier"):
        Objective(lambda state, batch: batch[0].mean(1), data, data).scores({})


def drawn(seed, count=60, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    outputs = scale * torch.randn(count, 4, generator=generator)
    return outputs, torch.randint(0, 4, (count,), generator=generator)


def test_a_weight_of_two_is_a_sample_twice():
    outputs, targets = drawn(2)
    times = torch.tensor([1, 2, 1, 3])[targets]
    repeated = outputs.repeat_interleave(times, 0), targets.repeat_interleave(times)
    weights = times / times.float().mean()
    assert temperature(outputs, targets, weights) == pytest.approx(temperature(*repeated), rel=1e-4)
    one = scores_of(outputs, targets, torch.zeros(60), 2.0, weights)
    other = scores_of(*repeated, torch.zeros(len(repeated[1])), 2.0)
    assert float(one.brier.mean()) == pytest.approx(float(other.brier.mean()))
    assert float(one.error.mean()) == pytest.approx(float(other.error.mean()))
    assert one.highest == pytest.approx(float(weights.max()))
    assert float(one.brier.max()) <= one.highest


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("weighted", [False, True])
def test_an_output_that_overflows_has_the_worst_score(value, weighted):
    outputs, targets = drawn(3)
    outputs[5, targets[5]] = value
    weights = torch.linspace(0.5, 1.5, 60) if weighted else None
    assert temperature(outputs, targets, weights) == 1.0
    found = scores_of(outputs, targets, torch.zeros(60), 1.0, weights)
    worst = 1.0 if weights is None else float(weights[5])
    assert float(found.brier[5]) == float(found.error[5]) == pytest.approx(worst)
    assert bool(torch.isfinite(found.brier).all())


def objective(weights=None):
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 4))
    loss = ModelLoss(model, nn.CrossEntropyLoss(reduction="none"))
    inputs = torch.randn(240, 5)
    sure = model(inputs).argmax(1)
    targets = torch.where(torch.arange(240) % 3 == 0, torch.arange(240) % 4, sure)
    common = Objective(loss, (inputs[:120], targets[:120]), (inputs[120:], targets[120:]), classifier=loss)
    state = {name: 4 * tensor.detach() for name, tensor in model.state_dict().items()}
    return state, common if weights is None else weighted_objective(common, weights)


@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 0.5, 1.0)])
@pytest.mark.parametrize("warmth", [0.4, 1.7, 3.0])
def test_a_temperature_alone_changes_no_score(weights, warmth):
    """It changes the loss, which is what the published gain pays for."""
    state, own = objective(weights)
    cooled = state | {name: state[name] / warmth for name in ("2.weight", "2.bias")}
    before, after = own.scores(state).certify, own.scores(cooled).certify
    torch.testing.assert_close(after.brier, before.brier, atol=1e-4, rtol=0)
    assert torch.equal(after.error, before.error)
    assert abs(float(after.loss.mean() - before.loss.mean())) > 0.05


@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 0.5, 1.0)])
def test_the_order_of_samples_is_that_of_the_scores(weights):
    state, own = objective(weights)
    order = torch.randperm(len(own.certify[1]))
    other = Objective(own.loss, own.fit, tuple(part[order] for part in own.certify), own.classifier, own.class_weights)
    found, shuffled = own.scores(state).certify, other.scores(state).certify
    for kind in ("loss", "brier", "error"):
        torch.testing.assert_close(getattr(shuffled, kind), getattr(found, kind)[order])


def test_the_certify_split_does_not_choose_the_temperature():
    state, own = objective()
    inputs, targets = own.certify
    wrong = Objective(own.loss, own.fit, (inputs, (targets + 1) % 4), own.classifier)
    outputs, hit = (
        own.classifier.outputs(state, own.certify),
        temperature(own.classifier.outputs(state, own.fit), own.fit[1]),
    )
    expected = scores_of(outputs, (targets + 1) % 4, torch.zeros(120), hit)
    torch.testing.assert_close(wrong.scores(state).certify.brier, expected.brier)


def test_both_splits_have_the_temperature_of_the_fit_split():
    state, own = objective()
    swapped = Objective(own.loss, own.fit, own.fit, own.classifier)
    found = own.scores(state)
    torch.testing.assert_close(found.fit.brier, swapped.scores(state).certify.brier)
    torch.testing.assert_close(found.fit.loss, own.loss(state, own.fit))
