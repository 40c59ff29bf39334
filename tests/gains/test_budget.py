import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fl_market.errors import MarketError
from fl_market.gains import Counted, ErrorBudget, near_weight, round_share, told, value_weight

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


def test_the_told_numbers_have_one_probability_to_share():
    numbers = [digit * 10.0**power for power in range(-60, 60) for digit in range(1, 10)]
    assert sum(map(value_weight, numbers)) == pytest.approx(1)


@given(st.floats(1e-12, 1e3))
def test_numbers_with_one_digit_have_the_weight_of_their_power_of_ten(number):
    assert value_weight(told(number)) == value_weight(float(f"1e{f'{told(number):e}'.split('e')[1]}"))


@pytest.mark.parametrize("possible", [1, 2, 5])
def test_all_that_may_be_told_has_one_probability_to_share(possible):
    """Any offers of a round may be priced; the told numbers have weights that sum to one."""
    for rounds in (1, 2, 3):
        total = 0.0
        for outcome in itertools.product(range(possible + 1), repeat=rounds):
            budget, ways = ErrorBudget(), 1
            for priced in outcome:
                budget = budget.after(Counted(), Counted(possible, priced))
                ways *= len(list(itertools.combinations(range(possible), priced)))
            total += ways * budget.told
        assert total == pytest.approx(1)


def test_levels_by_hand():
    """Round 1 has 1/2 of the error; rounds 2 and 3 have 1/12."""
    budget = ErrorBudget(0.12)
    assert budget.level(1, 3) == pytest.approx(0.02)
    nothing = budget.after(Counted(), Counted(2))
    assert nothing.told == pytest.approx(1 / 2 * 3 / 4)
    assert nothing.level(2, 2) == pytest.approx(0.12 / 12 / 2 * 3 / 8)
    some = budget.after(Counted(), Counted(2, 2), value_weight(0.3) * value_weight(0.04) * value_weight(2.0))
    assert some.told == pytest.approx(1 / 2 * 3 / 4 / 36 / 72 / 36)
    assert some.after(Counted(), Counted(1)).told == pytest.approx(some.told * 1 / 6)
    assert some.after(Counted(1), Counted()).told == pytest.approx(some.told * 1 / 2), "foreseen ones count apart"
    assert budget.after(Counted(), Counted()) == budget


@pytest.mark.parametrize("foreseen", [0.3, 0.1, 0.09, 2.0])
def test_the_numbers_near_a_foreseen_one_have_one_probability_to_share(foreseen):
    numbers = [told(digit * 10.0**power) for power in range(-60, 60) for digit in range(1, 10)]
    weights = [near_weight(number, foreseen) for number in numbers]
    assert sum(weights) == pytest.approx(1)
    assert max(weights) == weights[numbers.index(foreseen)] > 0.3


def test_an_agent_that_learns_the_samples_from_what_it_is_told():
    """Its offers tell the sign of each sample's noise; then it sells exactly that, in many runs."""
    generator = np.random.default_rng(0)
    runs, false, unaware = 400, 0, 0
    for _ in range(runs):
        noise, budget = generator.standard_normal(12), ErrorBudget(0.2)
        for number, value in enumerate(noise, start=1):
            budget = budget.after(Counted(1, int(value > 0)), Counted(), 0.5)
            sold = np.sign(noise[:number]) @ noise[:number] / number**0.5
            p_value = stats.norm.sf(sold)
            if number == len(noise):
                false += p_value <= budget.level(number, 1)
                unaware += p_value <= ErrorBudget(0.2).level(number, 1)
    assert unaware > 0.3 * runs
    assert false <= 0.2 * runs


def test_a_level_is_never_zero():
    assert 0 < ErrorBudget().after(Counted(), Counted(1000, 400), value_weight(1e-9) ** 40).level(30, 2) < 1e-200


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ErrorBudget(0.0), r"error must be in \(0, 1\); got 0.0"),
        (lambda: ErrorBudget(1.0), r"error must be in \(0, 1\); got 1.0"),
        (lambda: ErrorBudget().level(0, 1), "numbered from 1; got 0"),
        (lambda: ErrorBudget().level(1, 0), "tests must be at least 1; got 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(MarketError, match=message):
        call()
