"""The scores of certificates against brute force."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fl_market.gains import ModelLoss, Objective, Scores, weighted_objective
from fl_market.gains.scores import COLDEST, HOTTEST, scores_of, temperature

CLASSES = 4


def drawn(seed, count=60, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    outputs = scale * torch.randn(count, CLASSES, generator=generator)
    return outputs, torch.randint(0, CLASSES, (count,), generator=generator)


def logarithmic_loss(outputs, targets, warmth, weights=None):
    losses = nn.functional.cross_entropy(outputs.double() / warmth, targets, reduction="none")
    return float((losses if weights is None else losses * weights).mean())


@pytest.mark.parametrize("warmth", [0.5, 1.0, 4.0])
def test_brier_and_error_by_hand(warmth):
    outputs, targets = drawn(0)
    found = scores_of(outputs, targets, torch.arange(60.0), warmth)
    for row, target, brier, error in zip(outputs.tolist(), targets.tolist(), found.brier, found.error, strict=True):
        powers = [math.exp(value / warmth) for value in row]
        shares = [power / sum(powers) for power in powers]
        squares = sum((share - (place == target)) ** 2 for place, share in enumerate(shares))
        assert float(brier) == pytest.approx(squares / 2)
        assert float(error) == (row.index(max(row)) != target)
    assert torch.equal(found.loss, torch.arange(60.0)), "the task's own losses are not calibrated"
    assert found.highest == 1.0


@pytest.mark.parametrize("scale", [0.3, 3.0, 30.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_temperature_of_a_fine_grid_has_a_lower_loss(scale, weighted):
    outputs, targets = drawn(1, count=400, scale=scale)
    outputs[torch.arange(0, 400, 2), targets[::2]] += 2 * scale
    weights = torch.tensor([0.1, 0.4, 1.5, 2.0])[targets] if weighted else None
    found = temperature(outputs, targets, weights)
    grid = np.geomspace(COLDEST, HOTTEST, 2001)
    losses = [logarithmic_loss(outputs, targets, warmth, weights) for warmth in grid]
    assert logarithmic_loss(outputs, targets, found, weights) <= min(losses) + 1e-5
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=0.01)


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
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    loss = ModelLoss(model, nn.CrossEntropyLoss(reduction="none"))
    inputs = torch.randn(240, 5)
    sure = model(inputs).argmax(1)
    targets = torch.where(torch.arange(240) % 3 == 0, torch.arange(240) % CLASSES, sure)
    common = Objective(loss, (inputs[:120], targets[:120]), (inputs[120:], targets[120:]), classifier=loss)
    state = {name: 4 * tensor.detach() for name, tensor in model.state_dict().items()}
    return state, common if weights is None else weighted_objective(common, weights)


@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 0.5, 1.0)])
@pytest.mark.parametrize("warmth", [0.4, 1.7, 3.0])
def test_a_temperature_alone_changes_no_score(weights, warmth):
    """It changes the loss, which is what the published gain pays for."""
    state, own = objective(weights)
    cooled = state | {name: state[name] / warmth for name in ("2.weight", "2.bias")}
    before, after = own.scores(state), own.scores(cooled)
    torch.testing.assert_close(after.brier, before.brier, atol=1e-4, rtol=0)
    assert torch.equal(after.error, before.error)
    assert abs(float(after.loss.mean() - before.loss.mean())) > 0.05


@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 0.5, 1.0)])
def test_the_order_of_samples_is_that_of_the_scores(weights):
    state, own = objective(weights)
    order = torch.randperm(len(own.certify[1]))
    other = Objective(own.loss, own.fit, tuple(part[order] for part in own.certify), own.classifier, own.class_weights)
    found, shuffled = own.scores(state), other.scores(state)
    for kind in ("loss", "brier", "error"):
        torch.testing.assert_close(getattr(shuffled, kind), getattr(found, kind)[order])


def test_the_certify_split_does_not_choose_the_temperature():
    state, own = objective()
    inputs, targets = own.certify
    wrong = Objective(own.loss, own.fit, (inputs, (targets + 1) % CLASSES), own.classifier)
    outputs, hit = (
        own.classifier.outputs(state, own.certify),
        temperature(own.classifier.outputs(state, own.fit), own.fit[1]),
    )
    expected = scores_of(outputs, (targets + 1) % CLASSES, torch.zeros(120), hit)
    torch.testing.assert_close(wrong.scores(state).brier, expected.brier)


def test_scores_weigh_losses_as_the_objective_does():
    state, own = objective((1.0, 3.0, 0.5, 1.0))
    found = own.scores(state)
    assert isinstance(found, Scores)
    torch.testing.assert_close(found.loss, own.loss(state, own.certify).detach())
