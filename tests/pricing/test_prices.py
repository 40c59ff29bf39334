import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_market.errors import MarketError
from fl_market.pricing import (
    RULES,
    Exponential,
    Uniform,
    credits_text,
    micro_credits,
    myerson_price,
    nash_price,
    nash_transfer,
    parse_prior,
)


@pytest.mark.parametrize(
    ("prior", "cost", "price"),
    [
        (Uniform(0, 1), 0.0, 0.5),
        (Uniform(0.8, 1), 0.0, 0.8),  # the corner: Eq. 2 has no root here
        (Uniform(0.2, 2), 0.5, 1.25),
        (Uniform(0, 1), 1.0, math.inf),
        (Exponential(2), 0.0, 0.5),
        (Exponential(2), 0.3, 0.8),
    ],
)
def test_reference_values(prior, cost, price):
    assert myerson_price(prior, cost) == pytest.approx(price)


@given(st.floats(0, 5), st.floats(0.01, 5), st.floats(0, 0.99))
def test_uniform_against_a_numeric_maximum(low, width, share):
    high = low + width
    cost = share * high
    price = np.linspace(max(low, cost), high, 20_001)
    revenue = (price - cost) * (1 - (price - low) / width)
    found = myerson_price(Uniform(low, high), cost)
    assert (found - cost) * (1 - max(0.0, found - low) / width) >= revenue.max() - 1e-9


@given(st.floats(0.05, 50), st.floats(0, 5))
def test_exponential_against_a_numeric_maximum(rate, cost):
    price = cost + np.linspace(0, 20 / rate, 20_001)
    found = myerson_price(Exponential(rate), cost)
    # relative to the cost: exp(-rate * cost) alone may underflow
    assert (found - cost) * math.exp(-rate * (found - cost)) >= (
        (price - cost) * np.exp(-rate * (price - cost))
    ).max() - 1e-9


@given(st.tuples(*[st.floats(0, 10)] * 4))
def test_two_midpoints_are_the_nash_transfer(values):
    """P_a - P_b of two independent one-sided midpoints satisfies Eq. 1 exactly."""
    va_a, va_b, vb_a, vb_b = values
    price_of_a, price_of_b = (vb_a + va_a) / 2, (va_b + vb_b) / 2
    assert price_of_a - price_of_b == pytest.approx(nash_transfer(va_a, va_b, vb_a, vb_b))


@pytest.mark.parametrize("values", [(0.1, 0.7, 0.6, 0.2), (0.0, 1.0, 0.4, 0.3)])
def test_the_nash_transfer_maximises_the_product_on_a_grid(values):
    va_a, va_b, vb_a, vb_b = values
    transfers = np.linspace(-2, 2, 400_001)
    product = (transfers + va_b - va_a) * (vb_a - vb_b - transfers)
    assert nash_transfer(*values) == pytest.approx(transfers[product.argmax()], abs=1e-5)


def test_one_sided_price():
    assert nash_price(bid=0.8, ask=0.4) == pytest.approx(0.6)
    assert nash_price(bid=0.4, ask=0.4) == pytest.approx(0.4)
    assert nash_price(bid=0.39, ask=0.4) is None


@given(st.sampled_from(sorted(RULES)), st.integers(0, 2**61), st.integers(0, 2**61))
def test_every_rule_is_individually_rational(name, bid, ask):
    price = RULES[name].price(bid, ask)
    if price is not None:
        assert 0 <= price <= bid
        assert price >= ask or not RULES[name].asks
    else:
        assert bid < ask


@pytest.mark.parametrize(
    ("text", "prior"), [("uniform(0, 1)", Uniform(0, 1)), (" Exponential( 10 ) ", Exponential(10))]
)
def test_priors_as_text(text, prior):
    assert parse_prior(text) == prior


@pytest.mark.parametrize(
    "text", ["", "normal(0, 1)", "uniform(1)", "uniform(2, 1)", "exponential(-1)", "uniform(0, x)"]
)
def test_invalid_texts_of_priors(text):
    with pytest.raises(MarketError):
        parse_prior(text)


@pytest.mark.parametrize("cost", [-1.0, math.inf, math.nan])
def test_an_invalid_cost(cost):
    with pytest.raises(MarketError, match="cost"):
        myerson_price(Uniform(0, 1), cost)


@pytest.mark.parametrize(
    ("value", "amount"), [(0.0, 0), (0.3, 300_000), (1e-7, 0), (0.9999999, 999_999), (-0.5, -500_000)]
)
def test_money_is_whole_micro_credits(value, amount):
    assert micro_credits(value) == amount


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_invalid_money(value):
    with pytest.raises(MarketError, match="finite number"):
        micro_credits(value)


def test_money_as_text():
    assert [credits_text(amount) for amount in (0, 1, 1_500_000, -2_000_001)] == [
        "0.000000",
        "0.000001",
        "1.500000",
        "-2.000001",
    ]
