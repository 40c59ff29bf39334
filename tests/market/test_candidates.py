"""The shortlist of sellers: against brute force, and in whole rounds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fl_market.broker import Broker, Terms
from fl_market.gains import Profile
from fl_market.market.buyers import Buyers
from fl_market.market.candidates import POOL, WARMTHS, View, after_trials, candidates, view_of
from fl_market.market.state import MarketState
from fl_market.naming import agent_name

CLASSES, SAMPLES = 4, 60
TARGETS = torch.arange(SAMPLES) % CLASSES


def view(seed, quality=0.0, labels=tuple(range(CLASSES)), weights=None):
    """Return the view of random outputs; quality raises that of the target."""
    dice = torch.Generator().manual_seed(seed)
    outputs = torch.randn(SAMPLES, len(labels), generator=dice)
    for place, label in enumerate(labels):
        outputs[label == TARGETS, place] += quality
    outputs -= outputs.mean(1, keepdim=True)
    outputs /= outputs.square().mean().sqrt()
    right = torch.tensor(labels)[outputs.argmax(1)] == TARGETS
    accuracies = torch.bincount(TARGETS[right], minlength=CLASSES) / torch.bincount(TARGETS, minlength=CLASSES)
    return View(labels, outputs, accuracies, torch.full((CLASSES,), 1 / CLASSES) if weights is None else weights)


def expected_loss(one, other):
    losses = [float(nn.functional.cross_entropy(warmth * (one.outputs + other.outputs), TARGETS)) for warmth in WARMTHS]
    return min(losses)


@given(st.integers(0, 100), st.integers(1, 7))
def test_the_sellers_of_the_best_pairs_are_tried(seed, number):
    views = {agent_name(place): view(100 * seed + place, quality=0.3 * place) for place in range(7)}
    found = candidates(views, views.keys(), TARGETS, number, {}, 5)
    for buyer, sellers in found.items():
        others = sorted(set(views) - {buyer}, key=lambda seller: expected_loss(views[buyer], views[seller]))
        assert sellers == sorted(others[:number])


def test_only_sellers_are_candidates():
    views = {name: view(place) for place, name in enumerate("ABCDE")}
    assert candidates(views, {"A", "C"}, TARGETS, 2, {}, 1) == {
        "A": ["C"], "B": ["A", "C"], "C": ["A"], "D": ["A", "C"], "E": ["A", "C"],
    }  # fmt: skip


def test_confident_outputs_are_no_better():
    """Views have one scale. A model with great outputs would hide the buyer's."""
    buyers = Buyers(lambda _: nn.Linear(3, 2), nn.CrossEntropyLoss(reduction="none"), *splits(), repaired=False)
    model = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
    confident = {name: 1000 * tensor for name, tensor in model.items()}
    one, other = (view_of(state, buyers.common, buyers) for state in (model, confident))
    torch.testing.assert_close(one.outputs, other.outputs)
    assert one.outputs.square().mean() == pytest.approx(1)
    dead = view_of({name: torch.zeros_like(tensor) for name, tensor in model.items()}, buyers.common, buyers)
    assert torch.equal(dead.outputs, torch.zeros_like(dead.outputs))


def splits():
    dice = torch.Generator().manual_seed(0)
    return [(torch.randn(100, 3, generator=dice), torch.arange(100) % 2) for _ in range(2)]


def test_a_buyer_s_own_classes_decide():
    """One seller knows the classes 0 and 1, the other 2 and 3; the buyer values the last class."""
    weights = torch.tensor([0.0, 0.0, 0.0, 1.0])
    views = {"A": view(0, weights=weights), "B": view(1), "C": view(2)}
    for name, known in (("B", (0, 1)), ("C", (2, 3))):
        outputs = views[name].outputs.clone()
        for label in known:
            outputs[label == TARGETS, label] += 5
        views[name] = View(views[name].labels, outputs, views[name].accuracies, views[name].weights)
    assert candidates(views, views.keys(), TARGETS, 1, {}, 1)["A"] == ["C"]


def test_label_spaces_are_compared_in_what_they_share():
    views = {
        "A": view(0, 1, labels=(0, 1)),
        "B": view(1, 2, labels=(1, 2)),
        "C": view(2, 2, labels=(2, 3)),
        "D": view(3, 0.0),
        "E": view(4, 3.0),
    }
    found = candidates(views, views.keys(), TARGETS, 2, {}, 1)
    assert all(len(sellers) == 2 for sellers in found.values())
    assert "E" in found["D"]


def test_many_agents_are_ranked_by_accuracy_first():
    views = {agent_name(place): view(place) for place in range(POOL + 20)}
    experts = {agent_name(place): view(1000 + place, quality=4.0) for place in (60, 61, 62)}
    found = candidates(views | experts, (views | experts).keys(), TARGETS, 3, {}, 1)
    assert all(sellers == sorted(experts) for buyer, sellers in found.items() if buyer in views)


def test_fruitless_sellers_wait_longer_and_longer():
    views = {"A": view(0), "B": view(1, 5.0), "C": view(2), "D": view(3)}
    fruitless, tried = {}, []
    for number in range(1, 14):
        (seller,) = candidates(views, views.keys(), TARGETS, 1, fruitless, number)["A"]
        tried.append(seller == "B")
        # B never gives a gain, the others always do
        fruitless = after_trials(fruitless, {("A", seller): -0.1 if seller == "B" else 0.1}, number)
    assert [number for number, best in enumerate(tried, start=1) if best] == [1, 2, 4, 8]
    assert fruitless == {("A", "B"): (4, 8)}
    assert after_trials(fruitless, {("A", "B"): 0.1}, 16) == {}, "a gain ends the waiting"


def test_fruitless_sellers_are_tried_where_nobody_else_waits():
    views = {"A": view(0), "B": view(1), "C": view(2)}
    fruitless = {("A", "B"): (9, 5), ("A", "C"): (9, 5)}
    assert len(candidates(views, views.keys(), TARGETS, 1, fruitless, 6)["A"]) == 1


# -- in a round


@pytest.fixture
def models():
    torch.manual_seed(0)
    return {agent_name(place): nn.Linear(3, 2).state_dict() for place in range(6)}


def opened(models, state=None, **terms):
    made = Broker(nn.Linear(3, 2), nn.CrossEntropyLoss(reduction="none"), *splits(), terms=Terms(fit_steps=1, **terms))
    made.state = state or made.state
    for agent in models:
        made.seat(agent)
    return made.open_round(models, 2)


def test_a_round_tries_so_many_sellers_for_each_buyer(models):
    for number, pairs in ((2, 12), (5, 30), (0, 30)):
        trading = opened(models, candidates=number)
        assert trading.evaluated == pairs
        assert len({(trial.buyer, trial.seller) for trial in trading.trials}) == pairs


def test_disclosed_quotes_need_both_directions(models):
    pairs = {(trial.buyer, trial.seller) for trial in opened(models, candidates=2, disclosure="paper").trials}
    assert pairs == {(seller, buyer) for buyer, seller in pairs}
    assert len(pairs) > 12


def test_the_state_remembers_trials_without_a_gain(models):
    same = dict.fromkeys(models, models["A"])
    state = opened({**same, "B": models["B"]}, candidates=2).state
    assert state.fruitless
    assert set(state.fruitless.values()) == {(1, 2)}
    quiet = Broker(nn.Linear(3, 2), nn.CrossEntropyLoss(reduction="none"), *splits())
    quiet.state = MarketState(runs=("run",), fruitless={("A", "B"): (3, 1)})
    assert quiet.open_round(models, 3, trades=False).state.fruitless == {("A", "B"): (3, 1)}


def test_worth_is_the_buyer_s_own(models):
    made = Broker(nn.Linear(3, 2), nn.CrossEntropyLoss(reduction="none"), *splits())
    made.register("A", Profile(class_weights=(1.0, 3.0)))
    buyer = made._buyers.of(made.state.profiles["A"])
    torch.testing.assert_close(view_of(models["A"], buyer, made._buyers).weights, torch.tensor([0.25, 0.75]))
