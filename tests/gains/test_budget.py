import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fl_market.errors import MarketError
from fl_market.gains import ErrorBudget, round_share

CHAINS = ("A", "B"), ("B", "A")
ROUNDS = 4


def test_the_shares_of_all_rounds_sum_to_one():
    """After 2^k - 1 rounds, 1/(k+1) is left, which tends to 0."""
    for k in range(1, 15):
        spent = sum(Fraction(1, round(1 / round_share(number))) for number in range(1, 2**k))
        assert spent == 1 - Fraction(1, k + 1)


@given(st.integers(1, 10**9))
def test_shares_fall_and_stay_near_an_equal_division(number):
    assert 0 < round_share(number + 1) <= round_share(number)
    assert round_share(number) >= 1 / (number * (number.bit_length() + 1) ** 2)


def levels_of(successes, error=0.05):
    """Return (round, chain) -> level, for outcomes (round, chain) -> success."""
    budget, levels = ErrorBudget(error), {}
    for number in range(1, ROUNDS + 1):
        found = {chain: budget.level(number, len(CHAINS), chain) for chain in CHAINS}
        levels |= {(number, chain): level for chain, level in found.items()}
        budget = budget.after({chain: (level, successes[number, chain]) for chain, level in found.items()})
    return levels


def patterns(tests):
    for values in itertools.product([False, True], repeat=len(tests)):
        yield dict(zip(tests, values, strict=True))


def test_each_share_is_charged_to_at_most_one_true_null():
    """The highest levels of nulls, for all patterns of nulls and outcomes without a false one."""
    chain = CHAINS[0]
    tests = [(number, chain) for number in range(1, ROUNDS + 1)]
    others = {(number, CHAINS[1]): False for number in range(1, ROUNDS + 1)}
    spent = sum(round_share(number) for number in range(1, ROUNDS + 1)) / len(CHAINS)
    for nulls in patterns(tests):
        highest = dict.fromkeys((test for test, null in nulls.items() if null), 0.0)
        for outcome in patterns(tests):
            if any(outcome[test] for test in highest):
                continue
            levels = levels_of(outcome | others)
            highest = {test: max(level, levels[test]) for test, level in highest.items()}
        assert sum(highest.values()) <= 0.05 * spent + 1e-15
        if nulls[tests[-1]]:  # then nothing is lost, and the procedure spends all that it may
            assert sum(highest.values()) == pytest.approx(0.05 * spent)


@pytest.mark.parametrize("dependence", [0.0, 0.5, 0.99, -0.3])
@pytest.mark.parametrize("share_of_nulls", [0.3, 1.0])
def test_the_familywise_error_of_dependent_tests(dependence, share_of_nulls):
    """Normal test statistics of all rounds and chains, equally correlated; the error is 20 %."""
    generator = np.random.default_rng(1)
    tests = [(number, chain) for number in range(1, ROUNDS + 1) for chain in CHAINS]
    covariance = np.eye(2) + dependence * (1 - np.eye(2)) if dependence < 0 else dependence
    runs, false = 3000, 0
    for _ in range(runs):
        nulls = {test: generator.random() < share_of_nulls for test in tests}
        if dependence < 0:  # each pair of neighbours is negatively dependent
            noise = generator.multivariate_normal(np.zeros(2), covariance, len(tests) // 2).ravel()
        else:
            noise = dependence**0.5 * generator.standard_normal()
            noise += (1 - dependence) ** 0.5 * generator.standard_normal(len(tests))
        values = {t: stats.norm.sf(z + 3 * (not nulls[t])) for t, z in zip(tests, noise, strict=True)}
        false += false_success(values, nulls, error=0.2)
    assert false <= stats.binom.isf(1e-4, runs, 0.2)


def false_success(p_values, nulls, error):
    budget = ErrorBudget(error)
    for number in range(1, ROUNDS + 1):
        found = {chain: budget.level(number, len(CHAINS), chain) for chain in CHAINS}
        results = {chain: (level, p_values[number, chain] <= level) for chain, level in found.items()}
        if any(success and nulls[number, chain] for chain, (_, success) in results.items()):
            return True
        budget = budget.after(results)
    return False


def test_the_worst_dependence_reaches_the_error_and_does_not_pass_it():
    """One uniform number decides all tests, each null false in an interval of its own."""
    tests = [(number, chain) for number in range(1, ROUNDS + 1) for chain in CHAINS]
    nothing = levels_of(dict.fromkeys(tests, False))
    ends = np.cumsum([nothing[test] for test in tests])
    points = (np.arange(100_000) + 0.5) / 100_000
    nulls, false = dict.fromkeys(tests, True), 0
    for point in points[points <= ends[-1] + 0.01]:
        values = {t: (point - end + nothing[t]) % 1 for t, end in zip(tests, ends, strict=True)}
        false += false_success(values, nulls, error=0.05)
    spent = sum(round_share(number) for number in range(1, ROUNDS + 1))
    assert false / len(points) == pytest.approx(0.05 * spent, abs=1e-4)
    assert false / len(points) <= 0.05


def test_levels_by_hand():
    """Round 1 has 1/2 of the error, rounds 2 and 3 have 1/12; chains without a test wait."""
    budget = ErrorBudget(0.12)
    assert budget.level(1, 3, ("A", "B")) == pytest.approx(0.02)
    budget = budget.after({("A", "B"): (0.02, True), ("A", "C"): (0.02, False)})
    assert budget.carried == {("A", "B"): 0.02}
    assert budget.level(2, 2, ("A", "B")) == pytest.approx(0.025)
    budget = budget.after({("A", "C"): (0.005, True)})
    assert budget.carried == {("A", "B"): 0.02, ("A", "C"): 0.005}
    assert budget.level(3, 1, ("A", "B")) == pytest.approx(0.03)
    assert budget.after({("A", "B"): (0.03, False)}).carried == {("A", "C"): 0.005}
    assert budget.after({}) == budget


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ErrorBudget(0.0), r"error must be in \(0, 1\); got 0.0"),
        (lambda: ErrorBudget(1.0), r"error must be in \(0, 1\); got 1.0"),
        (lambda: ErrorBudget().level(0, 1, ("A", "B")), "numbered from 1; got 0"),
        (lambda: ErrorBudget().level(1, 0, ("A", "B")), "tests must be at least 1; got 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(MarketError, match=message):
        call()
