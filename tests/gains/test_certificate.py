import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fl_market.errors import MarketError
from fl_market.gains import Scores, certify, certify_increment, harms, split_in_halves, told


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


def scores(values, loss=None, error=None):
    brier = torch.as_tensor(values, dtype=torch.float64)
    return Scores(brier if loss is None else loss, brier, brier if error is None else error)


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


@given(st.floats(1e-6, 10.0))
def test_told_numbers_have_one_digit_and_are_never_higher(number):
    found = told(number)
    assert found <= number * (1 + 1e-8)
    assert found > number / 2 * (1 - 1e-8)
    assert len(f"{found:.0e}".split("e")[0]) == 1
    assert float(f"{found:.0e}") == pytest.approx(found)
    assert told(found) == pytest.approx(found)
