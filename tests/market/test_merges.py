"""The broker's work on one model."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from fl_market.gains import ModelLoss, Objective
from fl_market.market import merges
from fl_market.market.buyers import Buyer
from fl_market.market.merges import best_merge, serve
from fl_market.market.terms import Terms
from fl_market.merging import hold_out, mean_alpha
from fl_market.parameters import StateDict

OWN, BOUGHT = {"only.weight": torch.tensor([0.0])}, {"only.weight": torch.tensor([1.0])}
DATA = torch.zeros(40, 1), torch.zeros(40, dtype=torch.int64)


@dataclass
class StubRepair:
    """A repair whose merged model is a function of α."""

    repaired: object

    def merging(self, own, bought, method=None):
        def merge(alpha):
            share = alpha["only.weight"] if isinstance(alpha, dict) else alpha
            return {"only.weight": self.repaired(torch.as_tensor(share)).reshape(1)}

        return merge


def buyer(loss_of, repaired=None):
    def loss(state: StateDict, data):
        return loss_of(state["only.weight"][0]).expand(len(data[0]))

    repair = None if repaired is None else StubRepair(repaired)
    return Buyer((), nn.Identity(), OWN, Objective(loss, DATA, DATA), repair, together=False)


def test_plain_and_repaired_are_compared_each_at_its_own_weight():
    """At α = ½ the repaired merge is better, and at their own weights the plain one is."""
    one = buyer(lambda weight: (weight - 0.9) ** 2, repaired=lambda share: 0.7 + 0 * share)
    at_half = best_merge(OWN, BOUGHT, one, Terms(fit_steps=0))
    assert at_half.alpha == pytest.approx(0.9, abs=0.01)
    assert at_half.loss == pytest.approx(0.0, abs=1e-3)
    assert at_half.state["only.weight"].item() == pytest.approx(0.9, abs=0.01)


def test_the_repaired_merge_wins_at_its_own_weight():
    """At α = ½ the plain merge is better."""
    one = buyer(
        lambda weight: (weight - 0.6) ** 2 + 0.01 * (weight < 2), repaired=lambda share: 2 + (share - 0.2).abs()
    )
    one = replace(one, objective=replace(one.objective, loss=_far_is_good))
    found = best_merge(OWN, BOUGHT, one, Terms())
    assert found.state["only.weight"].item() == pytest.approx(2.0, abs=0.06)
    assert found.alpha == pytest.approx(0.2, abs=0.06)


def _far_is_good(state, data):
    weight = state["only.weight"][0]
    value = torch.where(weight >= 2, (weight - 2) * 2, 0.1 + (weight - 0.5) ** 2)
    return value.expand(len(data[0]))


def test_a_merge_without_a_finite_loss_is_none():
    assert best_merge(OWN, BOUGHT, buyer(lambda weight: weight * float("nan")), Terms()) is None


def test_rows_are_fitted_to_the_better_kind_of_merge():
    one = buyer(lambda weight: (weight - 0.9) ** 2, repaired=lambda share: 0.7 + 0 * share)
    found = best_merge(OWN, BOUGHT, one, Terms(granularity="row", selection="greedy"))
    assert isinstance(found.alpha, dict)
    assert mean_alpha(found.alpha, OWN) == pytest.approx(0.9, abs=0.05)


# -- the service ----------------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def beginner():
    """Return a buyer whose data are easy, and an untrained model."""
    model = network()
    targets = torch.arange(300) % 3
    inputs = nn.functional.one_hot(targets, 4).float() + 0.1 * torch.randn(300, 4)
    loss = ModelLoss(model, nn.CrossEntropyLoss(reduction="none"))
    parts = [(inputs[half], targets[half]) for half in (slice(0, 150), slice(150, 300))]
    state = {name: tensor.detach() for name, tensor in network().state_dict().items()}
    return Buyer((), model, state, Objective(loss, *parts, classifier=loss), None, together=False), state


def test_the_service_lowers_the_loss_of_data_that_it_did_not_see():
    one, state = beginner()
    found = serve(state, one, Terms(tuning_learning_rate=0.02), ("0", "2"))
    before, after = (float(one.objective.loss(some, one.objective.certify).mean()) for some in (state, found))
    assert after < 0.7 * before
    assert all(not torch.equal(found[name], state[name]) for name in state)


def test_the_service_changes_only_the_layers_for_sale():
    one, state = beginner()
    found = serve(state, one, Terms(tuning_learning_rate=0.02), ("2",))
    assert {name for name in state if not torch.equal(found[name], state[name])} == {"2.weight", "2.bias"}


@pytest.mark.parametrize("terms", [{"service": "none"}, {"layer_budget": 0.9}, {"fit_steps": 0}])
def test_no_service(terms):
    one, state = beginner()
    assert serve(state, one, Terms(tuning_learning_rate=0.02, **terms), ("0", "2")) is None
    assert serve(state, one, Terms(tuning_learning_rate=0.02), ()) is None


def test_steps_without_a_gain_on_held_out_samples_are_not_taken():
    """The held-out part of the fit split has other labels."""
    one, state = beginner()
    inputs, targets = one.objective.fit
    seen = len(hold_out(one.objective.fit)[0][1])
    other = torch.cat([targets[:seen], (targets[seen:] + 1) % 3])
    opposed = replace(one, objective=replace(one.objective, fit=(inputs, other)))
    assert serve(state, opposed, Terms(tuning_learning_rate=0.02), ("0", "2")) is None


def test_the_steps_take_place_where_the_model_is(monkeypatch):
    """The objective's data are on the broker's device, and so must be the model."""
    placed = []

    def spied(state, objective, *, hardware, **options):
        placed.append(hardware.device.type)
        return state

    monkeypatch.setattr(merges, "fine_tuned", spied)
    one, state = beginner()
    assert serve({name: tensor.to("meta") for name, tensor in state.items()}, one, Terms(), ("0", "2")) is None
    assert serve(state, one, Terms(), ("0", "2")) is None
    assert placed == ["meta", "cpu"]
