"""Nobody sells a copy, however disguised, and nobody is refused what it trained."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clients.training import make_optimiser, train
from fl_market.broker import Broker
from fl_market.gains import split_in_halves
from fl_market.market.novelty import Listing, possible_copies, residuals, scaled, sketch
from fl_market.market.terms import Terms
from fl_market.merging import interpolate
from fl_market.permutation import apply_permutation, random_permutation
from fl_market.tasks import TaskOptions, load_task

EPOCHS = 5


@pytest.fixture(scope="module")
def task():
    return load_task("mnist-mlp", TaskOptions(agents=2))


def trained(task, state, agent, purpose, epochs=EPOCHS, rate=0.1):
    model = task.initial_model(0, "A")
    model.load_state_dict(state)
    optimiser = make_optimiser(model, "sgd", rate, 0.0)
    train(
        model, optimiser, task.criterion, task.agents[agent], epochs=epochs, batch_size=128, seed=0, purpose=(purpose,)
    )
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def models(task):
    """Two agents' models, trained apart from initialisations of their own."""
    return [trained(task, task.initial_model(0, name).state_dict(), index, name) for index, name in enumerate("AB")]


@pytest.fixture(scope="module")
def broker(task):
    fit, certify = split_in_halves(task.broker, 0)
    return Broker(task.build_model(), task.criterion, fit, certify, terms=Terms())


def refused(broker, offer, *, delivered=(), sold=()):
    """Return whether A may not sell a model to a market in which B bought and sold."""
    broker.state = type(broker.state)()
    for model in delivered:
        broker.state = broker.state.with_delivery("A", model)
    for model in sold:
        broker.state = broker.state.with_models({"B": model}).with_sales(["B"])
    found = broker._evaluator._resellers(broker.state, {"A": offer})
    return found == {"A"}


def rescaled(state, seed=0, *, compensated=True):
    """Scale the hidden units of ReLU layers, and take it back in the layer after them.

    Without that, the outputs are others, but the broker's alignment and repair undo the scales.
    """
    dice, found = torch.Generator().manual_seed(seed), dict(state)
    layers = sorted({name.split(".")[0] for name in state}, key=int)
    for layer, after in pairwise(layers):
        factors = torch.exp(torch.randn(len(found[f"{layer}.bias"]), generator=dice))
        found[f"{layer}.weight"] = found[f"{layer}.weight"] * factors[:, None]
        found[f"{layer}.bias"] = found[f"{layer}.bias"] * factors
        if compensated:
            found[f"{after}.weight"] = found[f"{after}.weight"] / factors
    return found


def noisy(state, share, seed=0):
    dice = torch.Generator().manual_seed(seed)
    return {
        name: tensor + share * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=dice)
        for name, tensor in state.items()
    }


def permuted(broker, state):
    return apply_permutation(broker.spec, random_permutation(broker.spec, 5), state)


DISGUISES = {
    "as it is": lambda broker, model: model,
    "noise of 3e-4": lambda broker, model: noisy(model, 3e-4),
    "noise of 5e-3": lambda broker, model: noisy(model, 5e-3),
    "units in another order": permuted,
    "units rescaled": lambda broker, model: rescaled(model),
    "all three": lambda broker, model: noisy(permuted(broker, rescaled(model)), 3e-4),
    "units rescaled without compensation": lambda broker, model: rescaled(model, compensated=False),
    "a temperature": lambda broker, model: model | {n: 0.5 * model[n] for n in list(model)[-2:]},
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_purchase_cannot_be_resold(broker, models, disguise):
    merged = interpolate(models[0], models[1], 0.4)
    assert refused(broker, DISGUISES[disguise](broker, merged), delivered=[merged])


@pytest.mark.parametrize("disguise", DISGUISES)
def test_the_seller_s_part_cannot_be_resold(broker, models, disguise):
    """Merged, own and α give the seller's parameters."""
    own, seller = models
    merged = interpolate(own, seller, 0.5)
    solved = {name: (merged[name] - 0.5 * own[name]) / 0.5 for name in own}
    torch.testing.assert_close(solved, seller)
    assert refused(broker, DISGUISES[disguise](broker, solved), delivered=[merged], sold=[seller])


def test_who_trains_sells(broker, models, task):
    merged = interpolate(models[0], models[1], 0.4)
    for rate in (0.01, 0.1):
        after = trained(task, merged, 0, "more", epochs=1, rate=rate)
        assert not refused(broker, after, delivered=[merged], sold=[models[1]])
    assert not refused(broker, models[0], delivered=[merged], sold=[models[1]])


def test_models_from_a_common_initialisation_are_no_copies(broker, task):
    start = task.initial_model(0, "A").state_dict()
    one, other = (trained(task, start, agent, "common", epochs=1, rate=0.01) for agent in range(2))
    assert not refused(broker, one, sold=[other])


def test_of_two_equal_offers_one_is_for_sale(broker, models):
    broker.state = type(broker.state)()
    own, other = models
    assert broker._evaluator._resellers(broker.state, {"A": own, "B": permuted(broker, own), "C": other}) == {"B"}


def test_own_sales_are_no_copies_of_others(broker, models):
    """An agent that does not train on may sell the same model again."""
    broker.state = type(broker.state)().with_models({"A": models[0]}).with_sales(["A"])
    assert broker._evaluator._resellers(broker.state, {"A": models[0]}) == frozenset()


@given(st.integers(4, 8), st.integers(4, 8), st.integers(0, 1000))
def test_matrix_scaling_is_free_of_the_scales_of_rows_and_columns(rows, columns, seed):
    dice = torch.Generator().manual_seed(seed)
    weights = torch.randn(rows, columns, 9, dtype=torch.float64, generator=dice)
    one, other = (torch.exp(torch.randn(size, dtype=torch.float64, generator=dice)) for size in (rows, columns))
    found = scaled(weights)
    torch.testing.assert_close(scaled(weights * one[:, None, None] * other[None, :, None]), found, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.square().sum(2).mean(0), torch.ones(columns))


def test_a_matrix_of_zeros_stays():
    assert not scaled(torch.zeros(2, 3)).any()


def test_residuals_are_without_class_and_scale():
    outputs = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(40) % 4
    shift = torch.randn(4, 4, dtype=torch.float64)[targets]
    torch.testing.assert_close(residuals(3 * outputs + shift + 7, targets), residuals(outputs, targets))
    assert residuals(outputs, targets).norm() == pytest.approx(1)


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 30))
def test_sketches_are_never_further_apart_than_their_matrices(seed, rows, columns):
    dice = torch.Generator().manual_seed(seed)
    one, other = torch.randn(2, rows, columns, dtype=torch.float64, generator=dice)
    assert (sketch(one) - sketch(other))[:-1].norm() <= (one - other).norm() + 1e-12
    assert sketch(one)[-1] == pytest.approx(float(one.norm()))


def test_the_quick_comparison_misses_no_copy_and_names_no_other_model(broker, models, task):
    """All disguises of both agents' models, compared at once."""
    objective = broker._buyers.common.objective
    known = [Listing(model, objective) for model in models]
    disguised = [Listing(disguise(broker, model), objective) for model in models for disguise in DISGUISES.values()]
    near = possible_copies(disguised, known, broker.terms.novelty, broker.terms.resemblance)
    assert near == [[0]] * len(DISGUISES) + [[1]] * len(DISGUISES)
    assert possible_copies(disguised[:1], known, 0.0, 1.0) == [[]], "without limits nothing is a copy"
    assert possible_copies([], known, 0.002, 0.9997) == []


def test_parameters_of_other_shapes_are_left_to_the_full_comparison(broker, models):
    objective = broker._buyers.common.objective
    other = {name: tensor for name, tensor in models[1].items() if not name.startswith("1.")}
    smaller = Listing(other, objective)
    smaller.__dict__["residuals"] = torch.zeros(3)
    assert possible_copies([smaller], [Listing(models[0], objective)], 0.002, 0.9997) == [[0]]


def test_listings_of_the_last_round_are_kept(broker, models):
    refused(broker, models[0], delivered=[models[1]])
    first = dict(broker._evaluator._listed)
    assert {id(listing.state) for listing in first.values()} == {id(model) for model in models}
    refused(broker, models[0], delivered=[models[1]])
    assert all(broker._evaluator._listed[key] is listing for key, listing in first.items())
    refused(broker, models[0])
    assert set(broker._evaluator._listed) == {id(models[0])}, "and forgotten when nobody holds them"
