"""The error budget of a round."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch

from fl_market.gains import Certificate, Counted, ErrorBudget, near_weight, round_share, value_weight
from fl_market.market.spending import after_offers, error_of_tests, possible_purchases
from fl_market.market.terms import Terms
from fl_market.market.trials import Trial

AGENTS = ("A", "B", "C", "D")
TRIAL = Trial("A", "B", "all", 0.5, Certificate(0.5, 0.1, 0.95, 1.0, 0.5, 100), {"w": torch.zeros(1)})


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_tests_of_a_round_spend_its_share_of_the_error(number):
    """One purchase for each buyer: two tests for each ordered pair."""
    error = error_of_tests(ErrorBudget(0.05), number, len(AGENTS), Terms())
    assert 2 * len(list(permutations(AGENTS, 2))) * error == pytest.approx(0.05 * round_share(number))


@pytest.mark.parametrize(("agents", "purchases"), [(4, 2), (4, 3), (4, 9), (3, 2), (2, 3)])
def test_bundles_never_try_more_purchases_than_are_possible(agents, purchases):
    """The most that can take place: one more for each seller but the first."""
    tried = agents * (2 * (agents - 1) - 1 if purchases > 1 else agents - 1)
    assert tried <= possible_purchases(agents, Terms(max_purchases=purchases))


@pytest.mark.parametrize(
    ("terms", "possible"),
    [
        (Terms(), 40),
        (Terms(candidates=0), 90),
        (Terms(candidates=20), 90),
        (Terms(disclosure="paper"), 80),
        (Terms(max_purchases=2), 80),
        (Terms(max_purchases=9), 160),
    ],
)
def test_ten_agents_try_their_candidates_only(terms, possible):
    """Fewer tests leave more of the error to each."""
    assert possible_purchases(10, terms) == possible
    share = error_of_tests(ErrorBudget(0.05), 1, 10, terms)
    assert share == pytest.approx(0.05 * round_share(1) / (2 * possible))


def test_an_agent_alone_has_no_purchase_and_a_level():
    assert possible_purchases(1, Terms()) == 0
    assert error_of_tests(ErrorBudget(), 1, 1, Terms()) > 0


@pytest.mark.parametrize("certificate", ["trial", "published"])
def test_each_trial_by_itself_has_the_same_error_and_spends_nothing(certificate):
    terms = Terms(certificate=certificate, confidence=0.9)
    told = ErrorBudget(0.1).after(Counted(), Counted(10, 1))
    assert error_of_tests(told, 7, len(AGENTS), terms) == pytest.approx(0.1)
    assert after_offers(told, 4, [(TRIAL, 0.3)], Counted(), terms) == told


def test_priced_offers_and_models_given_back_are_told():
    budget, terms = ErrorBudget(), Terms()
    one = budget.after(Counted(), Counted(2, 1), value_weight(0.3))
    assert after_offers(budget, 2, [(TRIAL, 0.3)], Counted(), terms) == one
    assert after_offers(budget, 2, [], Counted(2, 1), terms) == budget.after(Counted(), Counted(4, 1))


def test_what_the_fit_split_foresees_tells_little():
    """It foresees two priced offers of six: one is priced, with the next lower gain; one is not."""
    budget, terms = ErrorBudget(), Terms()
    certain = replace(TRIAL, foreseen=replace(TRIAL.certificate, gain=0.42))
    unpriced = replace(certain, certificate=replace(TRIAL.certificate, lower_bound=0.0))
    doubtful = replace(unpriced, foreseen=replace(TRIAL.certificate, lower_bound=0.0))
    found = after_offers(budget, 3, [(certain, 0.3), (unpriced, 0.0), (doubtful, 0.0)], Counted(), terms)
    assert found == budget.after(Counted(2, 1), Counted(4, 0), near_weight(0.3, 0.4))
    surprise = replace(TRIAL, foreseen=doubtful.foreseen)
    found = after_offers(budget, 3, [(surprise, 0.3)], Counted(), terms)
    assert found == budget.after(Counted(), Counted(6, 1), near_weight(0.3, 0.5))


def test_a_disclosed_ratio_is_one_more_told_number():
    """The loss is halved: the ratio less 1 is 1."""
    terms = Terms(disclosure="paper")
    one = ErrorBudget().after(Counted(), Counted(2, 1), value_weight(0.3) * value_weight(1.0))
    assert after_offers(ErrorBudget(), 2, [(TRIAL, 0.3)], Counted(), terms) == one
