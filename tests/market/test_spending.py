"""The error budget of a round."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch

from fl_market.gains import Certificate, ErrorBudget, round_share
from fl_market.market.spending import GAIN, PROGRESS, Spending, chain_of, with_success
from fl_market.market.terms import Terms
from fl_market.market.trials import Errors, Trial

AGENTS = ("A", "B", "C", "D")


def trial(errors, progress=True, after=()):
    certificate = Certificate(0.5, 0.1, 0.95, 1.0, 0.5, 100)
    made = Trial("A", "B", "all", 0.5, certificate, {"w": torch.zeros(1)}, after, errors=errors)
    return replace(made, progress=certificate) if progress else made


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_tests_of_a_round_spend_its_share_of_the_error(number):
    """One purchase for each buyer: two tests for each ordered pair."""
    spending = Spending(ErrorBudget(0.05), number, AGENTS, Terms())
    errors = [spending.errors(chain_of(*pair, 1)) for pair in permutations(AGENTS, 2)]
    assert sum(some.gain + some.progress for some in errors) == pytest.approx(0.05 * round_share(number))


@pytest.mark.parametrize(("agents", "purchases"), [(4, 2), (4, 3), (4, 9), (3, 2), (2, 3)])
def test_bundles_never_spend_more_than_the_share_of_the_round(agents, purchases):
    """The most tests that can take place: one more for each seller but the first."""
    names = AGENTS[:agents]
    spending = Spending(ErrorBudget(0.05), 3, names, Terms(max_purchases=purchases))
    spent = 0.0
    for buyer in names:
        sellers = [name for name in names if name != buyer]
        tried = [(seller, 1) for seller in sellers] + [(seller, 2) for seller in sellers[1:] if purchases > 1]
        for seller, place in tried:
            errors = spending.errors(chain_of(buyer, seller, place))
            spent += errors.gain + errors.progress
    assert spent <= 0.05 * round_share(3) * (1 + 1e-12)


@pytest.mark.parametrize("certificate", ["trial", "published"])
def test_each_trial_by_itself_has_the_same_error_and_spends_nothing(certificate):
    terms = Terms(certificate=certificate, confidence=0.9)
    spending = Spending(ErrorBudget(0.1, {("A", "B", "1", GAIN): 0.01}), 7, AGENTS, terms)
    errors = spending.errors(chain_of("A", "B", 1))
    assert (errors.gain, errors.progress) == (pytest.approx(0.1), pytest.approx(0.1))
    spending.record(chain_of("A", "B", 1), trial(errors))
    assert spending.left == ErrorBudget(0.1, {("A", "B", "1", GAIN): 0.01})


def test_only_a_paid_purchase_passes_its_levels_on_and_only_to_its_own_chain():
    chain = chain_of("A", "B", 1)
    first = Spending(ErrorBudget(0.05), 1, AGENTS, Terms())
    base = first.errors(chain)
    first.record(chain, trial(base))
    assert first.left.carried == {}, "without a payment nothing is passed on"
    paid = with_success(first.left, trial(base))
    assert paid.carried == {(*chain, GAIN): base.gain, (*chain, PROGRESS): base.progress}
    second = Spending(paid, 2, AGENTS, Terms())
    fresh = 0.05 * round_share(2) / 24
    assert second.errors(chain) == Errors(pytest.approx(fresh + base.gain), pytest.approx(fresh + base.progress))
    for other in (("A", "C", 1), ("B", "A", 1), ("A", "B", 2)):
        assert second.errors(chain_of(*other)) == Errors(pytest.approx(fresh), pytest.approx(fresh))
    second.record(chain, trial(second.errors(chain)))
    assert second.left.carried == {}, "a level that was carried and not paid for is spent"


def test_a_test_that_did_not_take_place_keeps_what_its_chain_carries():
    chain = chain_of("A", "B", 1)
    carried = {(*chain, GAIN): 0.01, (*chain, PROGRESS): 0.02}
    for tried, left in (
        (trial(None), carried),
        (trial(Errors(0.011, 0.021), progress=False), {(*chain, PROGRESS): 0.02}),
        (trial(Errors(0.011, 0.021)), {}),
    ):
        spending = Spending(ErrorBudget(0.05, carried), 2, AGENTS, Terms())
        spending.record(chain, tried)
        assert spending.left.carried == left


def test_the_second_purchase_of_a_bundle_has_a_chain_of_its_own():
    bought = trial(Errors(0.01, 0.02), after=("C",))
    assert set(with_success(ErrorBudget(), bought).carried) == {("A", "B", "2", GAIN), ("A", "B", "2", PROGRESS)}
