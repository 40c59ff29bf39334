import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fl_market.errors import MarketError
from fl_market.gains.bounds import mean_exceeds, mean_lower_bound

REFERENCE = json.loads(Path(__file__).with_name("confseq_reference.json").read_text())
SAMPLES = st.lists(st.floats(-1, 1), min_size=1, max_size=60).map(np.array)
ERRORS = st.sampled_from([0.2, 0.05, 1e-3, 1e-5])


@pytest.mark.parametrize("case", REFERENCE, ids=lambda case: case["name"])
def test_against_the_package_of_the_method_s_authors(case):
    """Its bound may exceed the mean of the sample; ours is the smaller of the two."""
    values = np.array(case["values"])
    for error, bound in case["bounds"].items():
        expected = min(bound, values.mean())
        assert mean_lower_bound(values, 0, 1, float(error)) == pytest.approx(expected, abs=1e-10)


def test_one_value_by_hand():
    """A 1 multiplies the capital by 1 + 0.95 (1/m - 1), where m is so great that the bet is capped.

    With an error of 0.2 the capital must reach 5, and does so up to m = 0.95 / 4.95. There the bet
    √(2 ln 5 / 0.05) = 8.02 is above the cap of 0.95 / m = 4.95.
    """
    assert mean_lower_bound(np.ones(1), 0, 1, 0.2) == pytest.approx(0.95 / 4.95)


DISTRIBUTIONS = {
    "one that is rare": lambda g, shape: (g.random(shape) < 0.02) * 1.0,
    "one that is frequent": lambda g, shape: (g.random(shape) < 0.98) * 1.0,
    "a fair coin": lambda g, shape: (g.random(shape) < 0.5) * 1.0,
    "sparse": lambda g, shape: g.choice([0.3, 0.5, 0.7], shape, p=[0.05, 0.9, 0.05]),
    "sparse and skewed to the left": lambda g, shape: g.choice([0.0, 0.5, 0.55], shape, p=[0.01, 0.89, 0.1]),
    "sparse and skewed to the right": lambda g, shape: g.choice([0.45, 0.5, 1.0], shape, p=[0.1, 0.89, 0.01]),
    "uniform": lambda g, shape: g.random(shape),
    "beta": lambda g, shape: g.beta(0.2, 3.0, shape),
}
MEANS = {
    "one that is rare": 0.02,
    "one that is frequent": 0.98,
    "a fair coin": 0.5,
    "sparse": 0.5,
    "sparse and skewed to the left": 0.5,
    "sparse and skewed to the right": 0.5,
    "uniform": 0.5,
    "beta": 0.2 / 3.2,
}


@pytest.mark.parametrize("size", [5, 50, 500])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_bound_exceeds_the_mean_no_more_often_than_allowed(name, size):
    runs = 2000
    samples = DISTRIBUTIONS[name](np.random.default_rng(size), (runs, size))
    for error in (0.2, 0.05, 0.005):
        false = sum(mean_exceeds(values, 0, 1, MEANS[name], error) for values in samples)
        assert false <= stats.binom.isf(1e-4, runs, error)


def test_student_s_bound_fails_where_this_one_holds():
    """Many small gains, and a rare loss that most samples miss: the mean is 0."""
    generator = np.random.default_rng(0)
    samples = generator.choice([-1.0, 0.01], (2000, 100), p=[1 / 101, 100 / 101])
    exceeded = [mean_exceeds(values, -1, 1, 0.0, 0.05) for values in samples]
    with np.errstate(divide="ignore", invalid="ignore"):
        student = samples.mean(1) - stats.t.ppf(0.95, 99) * samples.std(1, ddof=1) / 10
    assert np.mean(student > 0) > 0.3
    assert np.mean(exceeded) <= 0.05


@settings(max_examples=200, deadline=None)
@given(SAMPLES, ERRORS, st.floats(0.1, 50), st.floats(-20, 20))
def test_units_do_not_matter(values, error, scale, shift):
    bound = mean_lower_bound(values, -1, 1, error)
    low, high = -scale + shift, scale + shift
    moved = mean_lower_bound(np.clip(scale * values + shift, low, high), low, high, error)
    assert moved == pytest.approx(scale * bound + shift, abs=1e-7 * (scale + abs(shift)))


@settings(max_examples=200, deadline=None)
@given(SAMPLES, ERRORS, st.floats(-1.2, 1.2))
def test_the_bound_is_in_the_range_and_agrees_with_the_test(values, error, threshold):
    bound = mean_lower_bound(values, -1, 1, error)
    assert -1 <= bound <= values.mean() + 1e-12
    assert mean_lower_bound(values, -1, 1, error / 2) <= bound
    if abs(bound - threshold) > 1e-9:
        assert mean_exceeds(values, -1, 1, threshold, error) == (bound > threshold)


@pytest.mark.parametrize("size", [250, 2500])
def test_values_that_rise_raise_the_bound(size):
    generator = np.random.default_rng(size)
    values = generator.choice([-0.4, 0.0, 0.4], size, p=[0.03, 0.9, 0.07])
    bounds = [mean_lower_bound(values + shift, -1, 1, 1e-3) for shift in np.linspace(-0.5, 0.5, 21)]
    assert (np.diff(bounds) > 0).all()


@pytest.mark.parametrize("error", [0.05, 1e-3, 1e-5])
def test_the_bound_is_nearly_as_narrow_as_student_s(error):
    """Within the factor by which Chernoff's √(2 ln 1/δ) exceeds the normal quantile."""
    generator = np.random.default_rng(0)
    ratios = []
    for _ in range(100):
        values = generator.choice([-0.4, 0.0, 0.4], 2500, p=[0.04, 0.9, 0.06])
        deviation = values.std(ddof=1) / 50
        ratios.append((values.mean() - mean_lower_bound(values, -1, 1, error)) / deviation)
    assert np.median(ratios) < math.sqrt(2 * math.log(1 / error))


@pytest.mark.parametrize(
    ("values", "low", "high", "error", "message"),
    [
        ([0.5], 0, 1, 0.0, r"error must be in \(0, 1\); got 0.0"),
        ([0.5], 0, 1, 1.0, r"error must be in \(0, 1\); got 1.0"),
        ([0.5], 1, 1, 0.1, "finite and ascending; got 1 and 1"),
        ([0.5], 0, math.inf, 0.1, "finite and ascending; got 0 and inf"),
        ([], 0, 1, 0.1, "one or more values"),
        ([[0.5]], 0, 1, 0.1, "one or more values"),
        ([1.1], 0, 1, 0.1, "values must be between 0 and 1"),
        ([math.nan], 0, 1, 0.1, "values must be between 0 and 1"),
    ],
)
def test_bad_input(values, low, high, error, message):
    with pytest.raises(MarketError, match=message):
        mean_lower_bound(np.array(values), low, high, error)
