"""Progress is bought once: what has a price, and what is given free of charge."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fl_market.gains import Objective, Scores, SplitScores
from fl_market.ledger import Ledger
from fl_market.market import incumbents
from fl_market.market.buyers import Buyer
from fl_market.market.incumbents import BEST, OWN, incumbent_of
from fl_market.market.round import TradingRound
from fl_market.market.state import MarketState
from fl_market.market.terms import Terms
from fl_market.market.trials import evaluate_purchase
from fl_market.protocol import Bid
from tests.toys import broker, by_pair, specialists, traded, trained


@pytest.fixture(scope="module")
def models():
    return specialists()


@pytest.mark.parametrize("granularity", ["model", "row"])
def test_what_the_other_agent_knows_is_certified(models, granularity):
    trials = by_pair(broker(granularity=granularity).try_before_purchase(models))
    for trial in trials.values():
        assert trial.certificate.positive
        assert 0.2 < trial.certificate.lower_bound < trial.certificate.gain < 1
        if granularity == "model":  # with a weight for each row, placebos and the service come near
            assert trial.priced
            assert 0.2 < trial.due.lower_bound < trial.due.gain < 1
        assert trial.due is trial.progress
        assert trial.certificate.confidence == pytest.approx(1 - 0.05 / 2 / 4)


def opened(made, models, best=None):
    if best is not None:
        made.state = made.state.with_best("A", best)
    return made.open_round(models)


def test_a_second_purchase_of_the_same_knowledge_has_no_price(models):
    """Its gain over the own model is certified: the buyer came back with its old one."""
    made = broker()
    first = by_pair(opened(made, models).trials)["A", "B"]
    second = by_pair(opened(made, models, best=first.merged).trials)["A", "B"]
    assert first.priced
    assert second.certificate == first.certificate
    assert second.progress.over == BEST
    assert second.on_approval
    assert not second.regress, "it is as good as the best"


def test_a_purchase_that_is_worse_than_the_best_is_known(models):
    """The best model knows all classes."""
    trial = by_pair(opened(broker(), models, best=trained(5, range(6))).trials)["A", "B"]
    assert trial.certificate.positive
    assert trial.on_approval
    assert trial.regress


def test_what_an_offer_will_tell_is_foreseen_without_the_certify_split(models):
    """The error budget counts surprises: what is foreseen must show nothing of the split."""
    known, other = broker(), broker()
    objective = other._buyers.common.objective
    inputs, targets = objective.certify
    wrong = replace(objective, certify=(inputs, targets.roll(1)))
    other._buyers.common = replace(other._buyers.common, objective=wrong)
    trials, others = by_pair(opened(known, models).trials), by_pair(opened(other, models).trials)
    for pair, trial in trials.items():
        assert trial.priced != others[pair].priced
        assert (trial.foreseen, trial.promise) == (others[pair].foreseen, others[pair].promise)
        assert trial.foreseen is not None
        assert trial.levels == others[pair].levels
        assert trial.levels[0] < trial.levels[1] <= 1


# -- alternatives and prices of an incumbent, in closed form --------------------------------------


@dataclass(frozen=True)
class Level(Objective):
    """An objective on which a model with one parameter has that score, on every sample."""

    def scores(self, state):
        level = state["only.weight"].double().expand(300)
        one = Scores(level, level, torch.zeros(300, dtype=torch.float64))
        return SplitScores(fit=one, certify=one)


def model(level):
    return {"only.weight": torch.tensor([level], dtype=torch.float32)}


def level_of(state):
    return float(state["only.weight"])


DATA = torch.zeros(300, 1), torch.zeros(300, dtype=torch.int64)
LEVELS = Buyer(
    (), nn.Identity(), model(0.0), Level(lambda state, data: state["only.weight"].expand(300), DATA, DATA), None, False
)


def without_seller(own, terms, best=None):
    return incumbent_of(LEVELS, model(own), terms, aligned=lambda seller: seller, for_sale=("only",), best=best)


@pytest.fixture
def placebo_level(monkeypatch):
    """Sellers that are placebos, with some scores; the service subtracts a tenth."""

    def patch(**levels):
        monkeypatch.setattr(
            incumbents, "placebos", lambda model_, own: [(name, model(level)) for name, level in levels.items()]
        )
        monkeypatch.setattr(incumbents, "serve", lambda state, *_: model(level_of(state) - 0.1))

    return patch


def test_a_merge_must_beat_every_placebo_and_its_price_counts_from_the_served_best(placebo_level):
    placebo_level(zeros=0.7, noise=0.6, untrained=0.95)
    found = without_seller(0.8, Terms(), best=model(0.3))
    levels = {name: round(float(scores.certify.brier.mean()), 6) for name, scores in found.alternatives.items()}
    # the grid of α ends at 0.95
    assert levels == {"zeros": 0.705, "noise": 0.61, "untrained": 0.8075, OWN: 0.8}
    priced = {name: round(float(scores.certify.brier.mean()), 6) for name, scores in found.priced.items()}
    assert priced == {OWN: 0.7, "noise": 0.51, BEST: 0.3}
    assert level_of(found.service) == pytest.approx(0.7)
    assert found.restored is not None
    assert level_of(found.restored) == pytest.approx(0.3)


def test_a_best_model_that_is_no_better_is_not_restored(placebo_level):
    placebo_level()
    assert without_seller(0.8, Terms(), best=model(0.7)).restored is None, "the service reaches it"
    assert without_seller(0.8, Terms(), best=model(0.69)).restored is not None


def test_published_terms_have_no_alternatives(placebo_level):
    placebo_level(zeros=0.1)
    found = without_seller(0.8, Terms(certificate="published"), best=model(0.3))
    assert (found.alternatives, found.priced, found.service, found.restored) == ({}, {}, None, None)


# -- progress is bought once ----------------------------------------------------------------------


def simulated(rounds, kind):
    """Play rounds in which a buyer and its seller return any models; return what it paid for."""
    terms = Terms(pricing="free", gain=kind, service="none")
    ledger, state = Ledger.open(), MarketState(runs=("run",)).with_models({"A": model(1.0), "B": model(1.0)})
    for name in "AB":
        ledger.open_account(name, 100)
    paid, reached = [], []
    for number, (own, seller) in enumerate(rounds, start=1):
        incumbent = without_seller(own, terms, state.best.get("A"))
        trial = evaluate_purchase(("A", "B"), incumbent, model(seller), ("only",), terms, 1e-3)
        trading = TradingRound(number, "run", terms, ledger, state.with_models({"A": model(own)}), ("A", "B"), (trial,))
        bids = {buyer: [Bid(some[0].id, 0)] for buyer, some in trading.offers.items()}
        bargain = trading.accept_bids(bids).accept_asks({})
        answers = {name: delivery.acknowledge() for name, delivery in bargain.deliver().items()}
        for deal in bargain.agreed:
            if deal.gain > 0:
                paid.append(deal.gain)
                reached.append((level_of(incumbent.state), level_of(trial.merged)))
            else:
                assert trial.on_approval
        state = bargain.conclude(answers).state
    return paid, reached


LEVELS_IN_ROUNDS = st.lists(st.tuples(st.floats(0.05, 1.0), st.floats(0.05, 1.0)), min_size=1, max_size=12)


@given(LEVELS_IN_ROUNDS, st.sampled_from(["relative", "difference"]))
@settings(max_examples=60, deadline=None)
def test_a_buyer_pays_for_its_progress_once_whatever_it_forgets_in_between(rounds, kind):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(incumbents, "placebos", lambda model_, own: {})
        paid, reached = simulated(rounds, kind)
    if paid:
        first, last = reached[0][0], reached[-1][1]
        assert sum(paid) <= (math.log(first / last) if kind == "relative" else first - last) + 1e-6
        assert [after for _, after in reached] == sorted((after for _, after in reached), reverse=True)


def test_forgetting_between_two_purchases_sells_the_same_progress_once(monkeypatch):
    monkeypatch.setattr(incumbents, "placebos", lambda model_, own: {})
    paid, reached = simulated([(1.0, 0.5), (1.0, 0.5), (1.0, 0.5), (0.9, 0.25)], "difference")
    assert paid == [0.5, 0.2], "the last gain is 0.25, which is told with one digit"
    assert len(reached) == 2


# -- the free service and the last round ----------------------------------------------------------


def test_a_buyer_with_a_purchase_gets_that(models):
    made = broker()
    trading, deliveries, outcome = traded(made, models)
    bought = by_pair(trading.trials)["A", "B"].merged
    assert "A" in trading.served
    assert set(deliveries) >= {"A"}
    assert outcome.deliveries["A"].model is bought
    assert outcome.models["A"] is bought
    assert outcome.state.best["A"] is bought


def test_a_worse_purchase_is_no_offer_where_best_models_are_given_back(models):
    for last, offers in ((False, 1), (True, 0)):
        made = broker()
        made.state = made.state.with_best("A", trained(5, range(6)))
        trading = made.open_round(models, last=last)
        assert len(trading.offers.get("A", ())) == offers
        assert replace(trading, terms=replace(trading.terms, approval=False)).offers.get("A") is None
