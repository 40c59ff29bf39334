import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fl_market.errors import MarketError
from fl_market.gains import Scores, certify, certify_increment, harms, split_in_halves, told
from fl_market.gains.bounds import mean_lower_bound


def test_against_scipy_s_paired_test():
    generator = np.random.default_rng(0)
    before, after = generator.exponential(1, 500), generator.exponential(0.8, 500)
    interval = stats.ttest_rel(before, after, alternative="greater").confidence_interval(0.9)
    found = certify(torch.from_numpy(before), torch.from_numpy(after), confidence=0.9, kind="difference")
    assert found.lower_bound == pytest.approx(interval.low)
    assert found.gain == pytest.approx(before.mean() - after.mean())
    relative = certify(torch.from_numpy(before), torch.from_numpy(after), confidence=0.9, kind="relative")
    assert relative.gain == pytest.approx(found.gain / before.mean())
    assert relative.lower_bound == pytest.approx(found.lower_bound / before.mean())


def test_a_case_by_hand():
    """Differences 1, 2, 3: mean 2, deviation 1, standard error 1/√3, t(0.95; 2) = 2.919986."""
    found = certify(torch.tensor([2.0, 4.0, 6.0]), torch.tensor([1.0, 2.0, 3.0]), kind="difference")
    assert (found.gain, found.samples, found.positive) == (2.0, 3, True)
    assert found.lower_bound == pytest.approx(2 - 2.9199856 / 3**0.5)


def test_equal_losses_are_certified_as_a_gain_in_five_of_100_cases():
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(2, 200, generator=generator) for _ in range(2000)]
    share = np.mean([certify(1 + 0.1 * before, 1 + 0.1 * after).positive for before, after in noise])
    assert 0.035 < share < 0.065


def test_losses_that_overflow_are_no_gain():
    found = certify(torch.tensor([1.0, 2.0]), torch.tensor([float("inf"), 1.0]))
    assert not found.positive
    assert np.isfinite([found.gain, found.lower_bound]).all()


def test_equal_models_gain_nothing():
    losses = torch.rand(50)
    found = certify(losses, losses)
    assert (found.gain, found.lower_bound, found.positive) == (0.0, 0.0, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"after": torch.zeros(3)}, "same two or more samples"),
        ({"confidence": 1.0}, r"in \(0, 1\); got 1.0"),
        ({"kind": "ratio"}, "one of relative, difference; got 'ratio'"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(MarketError, match=message):
        certify(**({"before": torch.ones(4), "after": torch.ones(4)} | arguments))


def test_the_splits_are_disjoint_halves_that_the_seed_decides():
    data = torch.arange(101), torch.arange(101)
    fit, held = split_in_halves(data, seed=1)
    assert sorted([*fit[0].tolist(), *held[0].tolist()]) == list(range(101))
    assert len(fit[0]) == 50
    assert torch.equal(fit[0], fit[1])
    assert torch.equal(split_in_halves(data, seed=1)[0][0], fit[0])
    assert not torch.equal(split_in_halves(data, seed=2)[0][0], fit[0])
    with pytest.raises(MarketError, match="at least 4 validation samples; got 3"):
        split_in_halves((torch.zeros(3), torch.zeros(3)), seed=0)


# -- the increment over all that a buyer could have without the seller ----------------------------


def scores(values, loss=None, error=None, highest=1.0):
    brier = torch.as_tensor(values, dtype=torch.float64)
    return Scores(brier if loss is None else loss, brier, torch.zeros_like(brier) if error is None else error, highest)


def uniform(seed, low, high, count=300):
    return np.random.default_rng(seed).uniform(low, high, count)


def test_the_gain_is_over_the_best_alternative_and_the_bound_is_the_lowest():
    after = uniform(0, 0.0, 0.2)
    alternatives = {"own": uniform(1, 0.3, 0.9), "zeros": uniform(2, 0.2, 0.6), "noise": uniform(3, 0.4, 0.8)}
    found = certify_increment(
        {name: scores(values) for name, values in alternatives.items()}, scores(after), kind="difference", error=0.01
    )
    bounds = [mean_lower_bound(values - after, -1, 1, 0.01) for values in alternatives.values()]
    assert (found.over, found.confidence, found.samples) == ("zeros", 0.99, 300)
    assert found.gain == pytest.approx(alternatives["zeros"].mean() - after.mean())
    assert found.lower_bound == pytest.approx(min(bounds))
    assert found.positive
    assert found.loss_before == pytest.approx(alternatives["own"].mean()), "the loss is the buyer's own"
    relative = certify_increment(
        {name: scores(values) for name, values in alternatives.items()}, scores(after), error=0.01
    )
    assert relative.gain == pytest.approx(found.gain / alternatives["zeros"].mean())
    assert relative.lower_bound == pytest.approx(found.lower_bound / alternatives["zeros"].mean())


def test_a_worse_alternative_with_an_uncertain_difference_prevents_a_certificate():
    """The mean increment is the larger one, but it comes from seven samples of 300."""
    after, near = np.full(300, 0.1), np.full(300, 0.15)
    rare = np.where(np.arange(300) < 7, 1.0, 0.1 + 0.031)
    assert rare.mean() > near.mean()
    alone = certify_increment({"near": scores(near)}, scores(after), error=0.01)
    both = certify_increment({"near": scores(near), "rare": scores(rare)}, scores(after), error=0.01)
    assert alone.positive
    assert both.over == "near"
    assert both.gain == alone.gain
    assert both.lower_bound < alone.lower_bound


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=5), st.floats(0.0, 1.0), st.booleans())
@settings(max_examples=40, deadline=None)
def test_more_alternatives_never_raise_a_bound_or_a_gain(levels, merged, finite):
    after = scores(np.clip(uniform(0, -0.1, 0.1, 60) + merged, 0, 1))
    made = {f"{place}": scores(np.clip(uniform(place, -0.1, 0.1, 60) + one, 0, 1)) for place, one in enumerate(levels)}
    fewer = {name: made[name] for name in list(made)[:-1]}
    some, more = (
        certify_increment(known, after, kind="difference", error=0.05, finite=finite) for known in (fewer, made)
    )
    assert more.gain <= some.gain
    assert more.lower_bound <= some.lower_bound
    assert more.lower_bound <= more.gain + 1e-12


def test_without_finite_bounds_it_is_the_paired_test_of_scipy():
    after, own = uniform(0, 0.0, 0.5), uniform(1, 0.2, 0.7)
    interval = stats.ttest_rel(own, after, alternative="greater").confidence_interval(0.95)
    found = certify_increment({"own": scores(own)}, scores(after), kind="difference", error=0.05, finite=False)
    assert found.lower_bound == pytest.approx(interval.low)
    bounded = certify_increment({"own": scores(own)}, scores(after), kind="difference", error=0.05)
    assert bounded.lower_bound == pytest.approx(mean_lower_bound(own - after, -1, 1, 0.05))


def test_the_range_of_weighted_scores_is_that_of_both_models():
    """Scores up to 3 have differences outside [-1, 1]."""
    heavy = scores(np.full(300, 2.5), highest=3.0)
    assert certify_increment({"own": heavy}, scores(np.zeros(300)), error=0.01).positive
    assert not certify_increment({"own": scores(np.zeros(300))}, heavy, error=0.01).positive


@pytest.mark.parametrize(
    ("loss", "error", "harmed"),
    [
        (0.0399, 0.0199, ()),
        (0.0401, 0.0, ("loss",)),
        (0.0, 0.0201, ("error",)),
        (0.1, 0.1, ("loss", "error")),
        (-1.0, -0.1, ()),
        (math.nan, 0.0, ("loss",)),
        (math.inf, 0.0, ("loss",)),
    ],
)
def test_a_harm_is_a_rise_beyond_the_tolerance(loss, error, harmed):
    """A tolerance of 0.02 is 0.04 units of a loss of 2, and 2 of 100 samples."""
    own = scores(torch.full((50,), 0.5), torch.full((50,), 2.0), torch.full((50,), 0.3))
    merged = scores(torch.full((50,), 0.5), torch.full((50,), 2.0 + loss), torch.full((50,), 0.3 + error))
    assert harms(own, merged, 0.02, 0.95) == harmed


def test_a_harm_is_what_is_not_certified_to_be_none():
    """A mean rise of 0 with much noise may be a rise."""
    noise = torch.from_numpy(uniform(5, -1, 1, 40))
    own, merged = scores(torch.zeros(40), torch.ones(40)), scores(torch.zeros(40), 1 + noise - noise.mean())
    assert harms(own, merged, 0.02, 0.95) == ("loss",)
    assert harms(own, merged, 1.0, 0.95) == ()


def test_a_certificate_with_a_harm_is_none():
    from dataclasses import replace

    found = certify_increment({"own": scores(np.full(300, 0.5))}, scores(np.full(300, 0.2)), error=0.01)
    assert found.positive
    assert not replace(found, harms=("error",)).positive


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_is_told_is_never_above_the_number_and_within_one_digit(number):
    found = told(number)
    assert found <= number
    assert told(found) == found
    if abs(number) < 1e300:
        digit = 10.0 ** math.floor(math.log10(abs(number))) if number else 0.0
        assert number - found <= digit * (1 + 1e-9)
    if math.isfinite(found) and found:
        assert len(Decimal(repr(found)).normalize().as_tuple().digits) == 1


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0.3, 0.3), (0.29999999999, 0.2), (1.0, 1.0), (12.9, 10.0), (-0.3, -0.3), (-0.31, -0.4), (5e-324, 5e-324)],
)
def test_what_is_told_in_some_cases(number, expected):
    assert told(number) == expected


@pytest.mark.parametrize("finite", [True, False])
def test_an_increment_is_over_the_best_alternative_and_its_bound_over_each(finite):
    generator = torch.Generator().manual_seed(0)
    merged = 0.3 + 0.1 * torch.rand(500, generator=generator)
    known = {"own": merged + 0.2, "zeros": merged + 0.05, "noise": merged + 0.1}
    alternatives = {name: scores(values) for name, values in known.items()}
    found = certify_increment(alternatives, scores(merged), kind="difference", error=0.05, finite=finite)
    assert found.over == "zeros"
    assert found.gain == pytest.approx(0.05, abs=1e-6)
    single = [
        certify_increment({name: some}, scores(merged), kind="difference", error=0.05, finite=finite).lower_bound
        for name, some in alternatives.items()
    ]
    assert found.lower_bound == min(single)
    relative = certify_increment(alternatives, scores(merged), error=0.05, finite=finite)
    assert relative.gain == pytest.approx(0.05 / float(known["zeros"].mean()), rel=1e-5)
    assert (relative.loss_before, relative.samples) == (pytest.approx(float(known["own"].mean())), 500)


def test_one_better_alternative_is_enough_to_deny_a_certificate():
    merged = torch.full((400,), 0.3)
    worse, better = scores(torch.full((400,), 0.5)), scores(torch.full((400,), 0.29))
    assert certify_increment({"own": worse}, scores(merged), error=0.01).positive
    assert not certify_increment({"own": worse, "noise": better}, scores(merged), error=0.01).positive


def test_no_more_than_the_error_of_null_increments_is_certified():
    """The merge differs from two alternatives by chance only, and skewed: Student's bound fails."""
    generator = np.random.default_rng(0)
    certified = {True: 0, False: 0}
    for _ in range(400):
        rare = torch.from_numpy((generator.random(150) < 0.01).astype(float))
        own, merged = scores(torch.full((150,), 0.2)), scores(0.19 + rare)
        for finite in certified:
            certified[finite] += certify_increment({"own": own}, merged, error=0.05, finite=finite).positive
    assert certified[True] <= 0.05 * 400 < certified[False]


@pytest.mark.parametrize(
    ("loss", "error", "expected"),
    [
        (0.0, 0.0, ()),
        (0.05, 0.0, ("loss",)),
        (0.0, 0.05, ("error",)),
        (0.05, 0.05, ("loss", "error")),
        (-1.0, -1.0, ()),
    ],
)
def test_harms_are_rises_beyond_the_tolerance(loss, error, expected):
    generator = torch.Generator().manual_seed(0)
    before = torch.rand(2000, generator=generator)
    noise = 0.01 * torch.randn(2000, generator=generator)
    own = Scores(before, before, before)
    merged = Scores(before + loss + noise, before, before + error + noise)
    assert harms(own, merged, 0.02, 0.95) == expected


def test_a_loss_that_overflows_harms():
    before = torch.ones(10)
    assert harms(Scores(before, before, before), Scores(before * float("inf"), before, before), 0.02, 0.95) == ("loss",)


def test_skewed_null_increments_are_certified_in_no_more_cases_than_the_error():
    """A harm in one sample of 100, which small splits often lack: Student's bound fails."""
    generator = np.random.default_rng(0)
    certified = {True: 0, False: 0}
    for _ in range(400):
        merged = scores(0.19 + (generator.random(150) < 0.01))
        for finite in certified:
            own = {"own": scores(np.full(150, 0.2), highest=2.0)}
            certified[finite] += certify_increment(own, merged, error=0.05, finite=finite).positive
    assert certified[True] <= 0.05 * 400 < certified[False]
