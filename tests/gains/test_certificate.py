import numpy as np
import pytest
import torch
from scipy import stats

from fl_market.errors import MarketError
from fl_market.gains import certify, split_in_halves


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
