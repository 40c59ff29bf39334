"""Every prior's price against reference values and a numeric maximum of the expected revenue."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fl_market.errors import MarketError
from fl_market.pricing import (
    NO_SALE,
    Empirical,
    Exponential,
    Pareto,
    Power,
    TruncatedExponential,
    TruncatedNormal,
    TruncatedPareto,
    Uniform,
    myerson_price,
    parse_prior,
)


@pytest.mark.parametrize(
    ("prior", "cost", "price"),
    [
        (Uniform(0, 1), 0.0, 0.5),
        (Uniform(0.8, 1), 0.0, 0.8),
        (Uniform(0.2, 2), 0.5, 1.25),
        (Exponential(2), 0.0, 0.5),
        (TruncatedExponential(2, 0, 1), 0.0, 0.36077),
        (TruncatedExponential(0.5, 0, 3), 0.4, 1.46954),
        (TruncatedPareto(0.5, 0.05, 1), 0.0, 0.25),
        (TruncatedPareto(1, 0.05, 1), 0.0, 0.05),
        (TruncatedPareto(3, 0.05, 1), 0.0, 0.05),
        (Power(3, 2), 0.0, 1.25992),
        (TruncatedNormal(0.5, 0.2, 0, 1), 0.0, 0.39642),
        (Pareto(2, 1), 0.0, 1.0),
        (Pareto(3, 1), 2.0, 3.0),
    ],
)
def test_reference_values(prior, cost, price):
    assert myerson_price(prior, cost) == pytest.approx(price, abs=1e-5)


@pytest.mark.parametrize(
    ("prior", "cost"),
    [
        (Uniform(0, 1), 1.0),
        (TruncatedExponential(2, 0, 1), 1.0),
        (TruncatedPareto(0.5, 0.05, 1), 2.0),
        (Power(3, 2), 2.0),
        (TruncatedNormal(0.5, 0.2, 0, 1), 1.5),
        (Empirical([1.0, 2.0]), 2.0),
        (stats.uniform(0, 1), 1.0),
    ],
)
def test_no_sale_is_named(prior, cost):
    assert myerson_price(prior, cost) == NO_SALE


@pytest.mark.parametrize(
    ("prior", "cost", "reason"),
    [
        (Pareto(1, 2), 0.0, "every price from 2 on earns the same"),
        (Pareto(1, 2), 1.0, "a higher price always earns more"),
        (Pareto(0.5, 2), 0.0, "a higher price always earns more"),
        (stats.pareto(0.5), 0.0, "a higher price always earns more"),
        (stats.norm(0, 1), 0.0, "must begin at 0 or above"),
        ("cheap", 0.0, "must be one of uniform, .* got 'cheap'"),
    ],
)
def test_an_invalid_prior_is_an_error_and_never_a_number(prior, cost, reason):
    with pytest.raises(MarketError, match=reason):
        myerson_price(prior, cost)


parameter = st.floats(0.05, 8)
share = st.floats(0, 0.95)


def distributions():
    """Pairs of a prior and the same distribution in scipy."""

    def truncated_exponential(rate, low, width):
        return TruncatedExponential(rate, low, low + width), stats.truncexpon(b=rate * width, loc=low, scale=1 / rate)

    def truncated_pareto(shape, low, factor):
        high = low * (1 + factor)
        return TruncatedPareto(shape, low, high), stats.truncpareto(shape, high / low, scale=low)

    def truncated_normal(mean, std, low, width):
        ends = (low - mean) / std, (low + width - mean) / std
        return TruncatedNormal(mean, std, low, low + width), stats.truncnorm(*ends, loc=mean, scale=std)

    return st.one_of(
        st.builds(lambda low, width: (Uniform(low, low + width), stats.uniform(low, width)), parameter, parameter),
        st.builds(lambda rate: (Exponential(rate), stats.expon(scale=1 / rate)), parameter),
        st.builds(truncated_exponential, parameter, parameter, parameter),
        st.builds(
            lambda shape, scale: (Pareto(shape, scale), stats.pareto(shape, scale=scale)), st.floats(1.5, 8), parameter
        ),
        st.builds(truncated_pareto, parameter, parameter, parameter),
        st.builds(lambda k, high: (Power(k, high), stats.powerlaw(k, scale=high)), parameter, parameter),
        st.builds(truncated_normal, parameter, st.floats(0.3, 5), parameter, parameter),
    )


def best_revenue(distribution, cost):
    """The greatest revenue on a fine grid of prices, from the survival function alone."""
    low, high = distribution.support()
    start = max(float(low), cost)
    end = high if math.isfinite(high) else start + 60 * float(distribution.isf(0.01))
    prices = np.concatenate([np.linspace(start, end, 4_001), start + np.geomspace(1e-6, end, 401)])
    return float(((prices - cost) * distribution.sf(prices)).max())


@settings(max_examples=300, deadline=None)
@given(distributions(), share)
def test_no_price_earns_more(pair, part):
    prior, distribution = pair
    low, high = (float(end) for end in distribution.support())
    cost = part * (high if math.isfinite(high) else low + 1)
    price = myerson_price(prior, cost)
    found = (price - cost) * float(distribution.sf(price))
    assert max(low, cost) - 1e-9 <= price <= high
    assert found >= best_revenue(distribution, cost) * (1 - 1e-6) - 1e-12


@settings(max_examples=20, deadline=None)
@given(distributions(), share)
def test_scipy_s_distributions_are_priors_too(pair, part):
    prior, distribution = pair
    low, high = (float(end) for end in distribution.support())
    cost = part * (high if math.isfinite(high) else low + 1)
    found, closed = (
        (price - cost) * float(distribution.sf(price))
        for price in (myerson_price(distribution, cost), myerson_price(prior, cost))
    )
    assert found == pytest.approx(closed, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("rate", [1e-12, 1e-9, 1e-6, 1e-3])
def test_a_nearly_flat_exponential_is_priced_like_a_uniform(rate):
    assert myerson_price(TruncatedExponential(rate, 0, 3), 0.5) == pytest.approx(1.75, rel=1e-3)


def test_revealed_values_alone_give_the_textbook_s_empirical_price():
    values = np.random.default_rng(0).uniform(0, 1, 20_000)
    assert myerson_price(Empirical(values)) == pytest.approx(0.5, abs=0.03)
    points, survival = Empirical([3, 1, 2]).survival()
    assert points.tolist() == [1, 2, 3]
    assert survival.tolist() == pytest.approx([1, 2 / 3, 1 / 3])


def test_few_observations_ask_for_less():
    """Three of four would pay 1, one paid 5: the textbook's estimate relies on the lucky sale."""
    lucky = [1, 1, 1, 5]
    assert myerson_price(Empirical(lucky)) == 1
    assert myerson_price(Empirical(lucky * 200)) == 5


def test_declined_quotes_are_censored_observations():
    generator = np.random.default_rng(1)
    valuations, asks = generator.uniform(0, 1, 5000), generator.choice(np.linspace(0.05, 0.95, 19), 5000)
    bought = valuations >= asks
    censored = Empirical(declined=asks[~bought], accepted=asks[bought])
    points, survival = censored.survival()
    assert np.abs(survival - (1 - points)).max() < 0.1
    assert myerson_price(censored) == pytest.approx(0.5, abs=0.12)
    # a seller that takes the asks for valuations overestimates its customers
    assert myerson_price(censored) < myerson_price(Empirical(np.maximum(asks, valuations))) + 0.05


@pytest.mark.parametrize("values", [[], [-1.0], [math.nan], [math.inf]])
def test_invalid_observations_are_refused(values):
    with pytest.raises(MarketError, match="observation"):
        Empirical(values)


@pytest.mark.parametrize(
    ("text", "prior"),
    [
        ("truncated-exponential(2, 0, 1)", TruncatedExponential(2, 0, 1)),
        ("pareto(2, 1)", Pareto(2, 1)),
        ("truncated-pareto(0.5, 0.05, 1)", TruncatedPareto(0.5, 0.05, 1)),
        ("power(3, 2)", Power(3, 2)),
        ("truncated-normal(0.5, 0.2, 0, 1)", TruncatedNormal(0.5, 0.2, 0, 1)),
        ("empirical(0.1, 0.2)", Empirical([0.1, 0.2])),
    ],
)
def test_all_priors_have_a_text(text, prior):
    assert parse_prior(text) == prior


def test_a_seller_that_began_too_high_tries_half():
    """Without that, declined quotes alone end in no ask at all, and no further quote teaches."""
    assert myerson_price(Empirical(declined=[0.8] * 5)) == pytest.approx(0.4)
    assert myerson_price(Empirical(declined=[0.8] * 5 + [0.4] * 5)) == pytest.approx(0.2)
    assert myerson_price(Empirical(values=[0.6], declined=[0.8]), cost=0.1) == pytest.approx(0.6), "it sold once"
