import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fl_market.errors import MarketError
from fl_market.gains import ModelLoss
from fl_market.merging import Repair, fit_weights, interpolate, mean_alpha
from fl_market.merging.fine_tuning import fine_tune
from fl_market.merging.purchased_weight import GRID, minimise_scalar


def quadratic(target):
    """The loss ‖θ - target‖², the same for every sample."""

    def loss(state, data):
        total = sum(((state[name] - target[name]) ** 2).sum() for name in target)
        return total.expand(len(data[0]))

    return loss


DATA = (torch.zeros(10, 1), torch.zeros(10))
BUYER = {"layer.weight": torch.zeros(2, 3), "layer.bias": torch.zeros(2), "head.weight": torch.zeros(1, 2)}
SELLER = {name: torch.ones_like(tensor) for name, tensor in BUYER.items()}


@pytest.mark.parametrize("best", [0.05, 0.137, 0.5, 0.62, 0.95, 1.0])
def test_one_weight_on_a_quadratic_is_exact(best):
    """In closed form: θ* = best · seller, so α = best."""
    target = {name: best * tensor for name, tensor in SELLER.items()}
    assert fit_weights(BUYER, SELLER, quadratic(target), DATA) == pytest.approx(best, abs=2e-4)


@given(st.lists(st.floats(0, 10), min_size=10, max_size=10), st.floats(-10, 10))
def test_the_search_is_no_worse_than_the_grid_in_at_most_twelve_evaluations(heights, elsewhere):
    """For any losses on the grid, with any number of minima."""
    calls = []
    losses = dict(zip(GRID, heights, strict=True))

    def value(alpha):
        calls.append(alpha)
        return losses.get(alpha, elsewhere)

    found = minimise_scalar(lambda alphas: [value(alpha) for alpha in alphas])
    assert len(calls) <= 12
    assert losses.get(found, elsewhere) <= min(heights)
    assert 0 < found <= 1


def test_each_row_takes_its_own_weight():
    target = {
        "layer.weight": torch.tensor([[0.9] * 3, [0.1] * 3]),
        "layer.bias": torch.tensor([0.9, 0.1]),
        "head.weight": torch.full((1, 2), 0.5),
    }
    alpha = fit_weights(BUYER, SELLER, quadratic(target), DATA, "row", steps=300)
    assert torch.allclose(alpha["layer.weight"].flatten(), torch.tensor([0.9, 0.1]), atol=0.02)
    assert torch.equal(alpha["layer.weight"].flatten(), alpha["layer.bias"])
    assert alpha["head.weight"].item() == pytest.approx(0.5, abs=0.02)
    assert mean_alpha(alpha, BUYER) == pytest.approx((4 * 0.9 + 4 * 0.1 + 2 * 0.5) / 10, abs=0.02)


def test_layers_take_one_weight_each():
    target = {
        "layer.weight": torch.full((2, 3), 0.8),
        "layer.bias": torch.full((2,), 0.8),
        "head.weight": torch.zeros(1, 2),
    }
    alpha = fit_weights(BUYER, SELLER, quadratic(target), DATA, "layer", steps=400)
    assert alpha["layer.weight"].numel() == 1
    assert alpha["layer.weight"].item() == pytest.approx(0.8, abs=0.02)
    assert alpha["head.weight"].item() < 0.1


@pytest.mark.parametrize("granularity", ["layer", "row"])
def test_finer_weights_are_never_worse_on_the_held_out_part(granularity):
    target = {name: 0.3 * tensor for name, tensor in SELLER.items()}
    loss = quadratic(target)
    single = fit_weights(BUYER, SELLER, loss, DATA)
    fine = fit_weights(BUYER, SELLER, loss, DATA, granularity, steps=5, learning_rate=10.0)
    values = [float(loss(interpolate(BUYER, SELLER, alpha), DATA).mean()) for alpha in (fine, single)]
    assert values[0] <= values[1] + 1e-6


@pytest.mark.parametrize("granularity", ["model", "layer", "row"])
@pytest.mark.parametrize("towards", [None, 0.5])
def test_no_weight_exceeds_its_limit(granularity, towards):
    """The best weight is 0.9; under a limit of 0.6 it is 0.6, and that is what merges."""
    own, other = {"w.weight": torch.zeros(3, 2)}, {"w.weight": torch.ones(3, 2)}

    def loss(state, data):
        return (state["w.weight"].mean() - 0.9).square() + 0 * data[0]

    data = torch.zeros(20), torch.zeros(20)
    found = fit_weights(own, other, loss, data, granularity, towards=towards, limit=0.6)
    highest = found if granularity == "model" else float(found["w.weight"].max())
    assert 0.5 < highest <= 0.6 + 1e-6


def test_fine_tuning_lowers_the_loss_and_leaves_the_start_alone():
    start = {name: tensor.clone() for name, tensor in BUYER.items()}
    tuned = fine_tune(start, quadratic(SELLER), DATA, steps=200, learning_rate=0.05)
    assert all(torch.allclose(tuned[name], SELLER[name], atol=0.05) for name in SELLER)
    assert all(torch.equal(start[name], BUYER[name]) for name in BUYER)


def test_fine_tuning_that_only_harms_keeps_the_start():
    start = {name: 1.0 * tensor for name, tensor in SELLER.items()}
    tuned = fine_tune(start, quadratic(SELLER), DATA, steps=3, learning_rate=10.0)
    assert all(torch.equal(tuned[name], SELLER[name]) for name in SELLER)


def test_an_unknown_granularity_is_refused():
    with pytest.raises(MarketError, match="one of model, layer, row; got 'column'"):
        fit_weights(BUYER, SELLER, quadratic(SELLER), DATA, "column")


def test_losses_that_are_not_finite_are_refused():
    with pytest.raises(MarketError, match="finite"):
        fit_weights(BUYER, SELLER, lambda state, data: torch.full((3,), float("nan")), DATA)


def test_the_grid_of_alpha_evaluated_together_is_the_same(mlp):
    """Also through the repair, which is where the broker does it."""
    torch.manual_seed(1)
    inputs, targets = torch.randn(200, 12), torch.randint(0, 3, (200,))
    loss = ModelLoss(mlp, nn.CrossEntropyLoss(reduction="none"))
    other = {name: tensor + 0.3 * torch.randn_like(tensor) for name, tensor in mlp.state_dict().items()}
    for merge in (None, Repair(mlp, inputs).merging(mlp.state_dict(), other)):
        one, all_at_once = (
            fit_weights(mlp, other, loss, (inputs, targets), merge=merge, together=together)
            for together in (False, True)
        )
        assert one == pytest.approx(all_at_once, abs=1e-3)


# -- a patient choice -----------------------------------------------------------------------------


def patient(curves, towards):
    """Return the patient choice of α, and the losses of each α that was evaluated.

    Parameters
    ----------
    curves
        From α to one loss for each sample.
    """
    seen = {}

    def loss(state, data):
        alpha = float(state["alpha"])
        seen[alpha] = torch.as_tensor(curves(alpha))
        return seen[alpha]

    merge = lambda alpha: {"alpha": torch.as_tensor(alpha)}  # noqa: E731
    found = fit_weights(BUYER, SELLER, loss, DATA, merge=merge, towards=towards)
    return found, {round(alpha, 6): losses.numpy() for alpha, losses in seen.items()}


@given(st.integers(0, 10**6), st.floats(0.2, 0.5), st.floats(0.0, 3.0), st.integers(2, 60))
@settings(max_examples=60, deadline=None)
def test_the_patient_choice_by_brute_force(seed, towards, noise, samples):
    """Of all α that are no worse than the best by a standard error, the nearest to the target."""
    dice = np.random.default_rng(seed)
    best, slopes = dice.uniform(0, 1), noise * dice.normal(size=samples)

    def curves(alpha):
        return (alpha - best) ** 2 + slopes * (alpha - best) + 1

    found, seen = patient(curves, towards)
    means = {alpha: losses.mean() for alpha, losses in seen.items()}
    lowest = seen[min(means, key=means.get)]
    allowed = {
        alpha
        for alpha, losses in seen.items()
        if (losses - lowest).mean() <= (losses - lowest).std(ddof=1) / samples**0.5 + 1e-12
    }
    nearest = min(abs(alpha - towards) for alpha in allowed)
    assert abs(found - towards) == pytest.approx(nearest, abs=1e-5)
    # not by rounding: a number halfway is rounded up or down in single precision
    assert min(abs(alpha - towards) for alpha in seen) < 2e-6, "the target itself is a candidate"


def test_a_patient_choice_differs_from_the_best_only_by_chance():
    """Without noise it is the best one, and with much noise it is the target."""
    signs = np.array([1.0, -1.0] * 20)
    choices = [patient(lambda alpha: (alpha - 0.85) ** 2 + noise * signs * alpha, 0.5)[0] for noise in (0.0, 5.0)]  # noqa: B023
    assert choices == [pytest.approx(0.85), 0.5]


def test_a_choice_from_one_sample_is_the_best_one():
    """Its standard error is unknown."""
    found, _ = patient(lambda alpha: np.array([(alpha - 0.85) ** 2]), 0.5)
    assert found == pytest.approx(0.85)
