"""A purchase must beat all that the buyer could have without its seller."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from fl_market.broker import Broker, Terms
from fl_market.gains import certify, split_in_halves
from fl_market.market import incumbents
from fl_market.market.merges import best_merge, serve
from fl_market.market.placebos import placebos
from fl_market.market.state import MarketState
from fl_market.parameters import digest
from fl_market.tasks import TaskOptions, load_task


@pytest.fixture(scope="module")
def task():
    return load_task("mnist-mlp", TaskOptions(agents=2))


def trained(model, data, rate=0.05, epochs=15, seed=0):
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(model.parameters(), rate, momentum=0.5)
    for _ in range(epochs):
        for batch in torch.randperm(len(data[0]), generator=generator).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(data[0][batch]), data[1][batch]).backward()
            optimiser.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def models(task):
    """Return a buyer that lacks classes, a seller that knows all, and sellers that know nothing."""
    own = trained(task.initial_model(0, "A"), task.agents[0])
    all_data = tuple(torch.cat(parts) for parts in zip(*task.agents, strict=True))
    genuine = trained(task.initial_model(0, "B"), all_data)
    generator = torch.Generator().manual_seed(1)

    def noise(tensor):
        return torch.randn(tensor.shape, generator=generator)

    labels = torch.randint(10, task.agents[1][1].shape, generator=generator)
    return {
        "own": own,
        "genuine": genuine,
        "untrained": task.initial_model(0, "Z").state_dict(),
        "zeros": {name: 1e-6 * noise(tensor) for name, tensor in own.items()},
        "noise": {name: tensor.std() * noise(tensor) for name, tensor in own.items()},
        "copy": {name: tensor + 0.5 * tensor.std() * noise(tensor) for name, tensor in own.items()},
        "random labels": trained(task.initial_model(0, "Y"), (task.agents[1][0], labels), epochs=3),
    }


def broker(task, **terms):
    splits = split_in_halves(task.broker, 0)
    return Broker(task.build_model(), task.criterion, *splits, terms=Terms(pricing="free", **terms))


def offered(task, models, kind, **terms):
    """Return the trial of a seller offered to the buyer A."""
    trials = broker(task, **terms).try_before_purchase({"A": models["own"], "B": models[kind]})
    return next(trial for trial in trials if trial.buyer == "A")


def test_a_genuine_seller_is_certified(task, models):
    trial = offered(task, models, "genuine")
    assert trial.certificate.positive
    assert trial.certificate.gain > 0.1
    assert trial.progress is not None


@pytest.mark.parametrize("kind", ["untrained", "zeros", "noise", "copy", "random labels"])
def test_a_worthless_seller_is_not_certified(task, models, kind):
    for granularity in ("model", "row"):
        assert not offered(task, models, kind, granularity=granularity, fit_steps=10).certificate.positive


def test_without_placebos_zeros_would_be_certified_for_a_buyer_with_large_weights(task, models, monkeypatch):
    """The buyer is the first agent with weights that grew by half: shrinking them is worth much."""
    large = models | {"own": {name: 1.5 * tensor for name, tensor in models["own"].items()}}
    published = offered(task, large, "zeros", certificate="published", service="none", selection="greedy")
    assert published.certificate.positive, "the former certificate"
    assert not offered(task, large, "zeros").certificate.positive
    deep = {
        "own": {
            name: tensor + 0.6 * tensor.std() * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3))
            for name, tensor in models["own"].items()
        }
    }
    monkeypatch.setattr(incumbents, "placebos", lambda model, own: {})
    found = offered(task, models | deep, "zeros", granularity="row", service="none")
    assert found.certificate.positive
    monkeypatch.undo()
    assert not offered(task, models | deep, "zeros", granularity="row", service="none").certificate.positive


def test_placebos_have_the_buyer_s_buffers_and_norms():
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    own = {name: tensor.detach() + 1 for name, tensor in model.state_dict().items()}
    found = dict(placebos(model, own))
    assert set(found) == {"zeros", "untrained", "noise"}
    for state in found.values():
        assert torch.equal(state["1.running_mean"], own["1.running_mean"])
        assert state["1.num_batches_tracked"] is own["1.num_batches_tracked"]
    assert float(found["zeros"]["0.weight"].abs().max()) < 1e-4
    assert torch.linalg.vector_norm(found["noise"]["0.weight"]) == pytest.approx(
        float(torch.linalg.vector_norm(own["0.weight"])), rel=1e-5
    )
    assert not torch.equal(found["untrained"]["0.weight"], model.state_dict()["0.weight"])


def test_a_buyer_s_alternatives_do_not_depend_on_other_agents(task, models):
    two = {"A": models["own"], "B": models["genuine"]}
    alone, crowded = (broker(task).try_before_purchase(some) for some in (two, two | {"C": models["noise"]}))
    first, second = (next(t for t in some if (t.buyer, t.seller) == ("A", "B")) for some in (alone, crowded))
    assert first.certificate.gain == second.certificate.gain
    assert first.certificate.over == second.certificate.over
    assert first.certificate.confidence < second.certificate.confidence, "six trials share the round's error"


def test_plain_and_repaired_merges_have_an_alpha_of_their_own(task, models):
    made = broker(task, service="none", selection="greedy")
    buyer = made._buyers.common
    objective = buyer.objective
    found = best_merge(models["own"], models["genuine"], buyer, made.terms)
    losses = {}
    for kind in (buyer, replace(buyer, repair=None)):
        merges = [kind.repair.merging(models["own"], models["genuine"])] if kind.repair else []
        merges = merges or [partial(made.terms.merge_method, models["own"], models["genuine"])]
        with torch.no_grad():
            losses[kind.repair is None] = min(
                float(objective.loss(merges[0](place / 20), objective.fit).mean()) for place in range(1, 20)
            )
    assert found.loss <= min(losses.values()) + 1e-3


def test_the_service_is_gated_and_changes_the_layers_for_sale_only(task, models):
    made = broker(task)
    buyer, objective = made._buyers.common, made.objective_of()
    served = serve(models["own"], buyer, made.terms, ("9",))
    assert served is not None
    changed = {name for name in served if not torch.equal(served[name], models["own"][name])}
    assert changed == {"9.weight", "9.bias"}
    with torch.no_grad():
        before, after = (objective.loss(state, objective.certify) for state in (models["own"], served))
    assert certify(before, after).positive
    assert serve(models["own"], buyer, replace(made.terms, service="none"), ("9",)) is None
    assert serve(models["own"], buyer, replace(made.terms, tuning_learning_rate=1.0), ("9",)) is None
    assert serve(models["own"], buyer, replace(made.terms, layer_budget=0.5), ("9",)) is None


def test_a_model_that_is_certified_worse_than_the_best_is_given_back_in_the_last_round(task, models):
    weak = trained(task.initial_model(0, "A"), task.agents[0], epochs=1)
    for terms, last, expected in (
        ({}, True, True),
        ({}, False, False),
        ({"restore": "always"}, False, True),
        ({"restore": "never"}, True, False),
    ):
        made = broker(task, service="none", **terms)
        made.state = MarketState(best={"A": models["own"]}, budget=made.state.budget)
        trading = made.open_round({"A": weak}, 1, last=last)
        assert ("A" in trading.given) == expected
        assert not expected or digest(trading.given["A"]) == digest(models["own"])
        bargain = trading.accept_bids({}).accept_asks({})
        outcome = bargain.conclude(bargain.deliver())
        assert (outcome.deliveries["A"].model is not None) == expected
        assert outcome.models["A"] is weak, "training goes on from the buyer's own model"


def test_a_buyer_without_a_purchase_gets_the_served_model(task, models):
    made = broker(task)
    bargain = made.open_round({"A": models["own"]}, 1).accept_bids({}).accept_asks({})
    outcome = bargain.conclude(bargain.deliver())
    assert outcome.deliveries["A"].model is not None
    assert outcome.models["A"] is outcome.deliveries["A"].model
