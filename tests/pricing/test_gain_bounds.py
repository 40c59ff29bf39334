"""Theorem 4.1 on random agents: errors as vectors, weights at random or truly optimal."""

import math

import numpy as np
import pytest

from fl_market.errors import MarketError
from fl_market.pricing import exact_gain, gain_bounds

DRAWS = 100_000


def ratio(before, after):
    return (before**2).sum(-1) / (after**2).sum(-1)


@pytest.fixture(scope="module")
def agents():
    """Errors of a seller and a buyer that differ in size and direction, and two weights."""
    generator = np.random.default_rng(0)
    dimension = 3
    seller, buyer = generator.normal(size=(2, DRAWS, dimension))
    buyer = buyer * generator.lognormal(0, 1.5, (DRAWS, 1)) + generator.choice([-2, 0, 2], (DRAWS, 1)) * seller
    alpha, beta = generator.uniform(0, 1, (2, DRAWS))
    return seller, buyer, alpha, beta


def gains(seller, buyer, alpha, beta):
    """Return both gains: the seller buys with weight alpha, the buyer with beta."""
    merged_seller = (1 - alpha)[:, None] * seller + alpha[:, None] * buyer
    merged_buyer = (1 - beta)[:, None] * buyer + beta[:, None] * seller
    return ratio(seller, merged_seller), ratio(buyer, merged_buyer)


@pytest.mark.parametrize("kind", ["paper", "sharp"])
def test_no_draw_violates_the_bounds(agents, kind):
    seller, buyer, alpha, beta = agents
    own, others = gains(seller, buyer, alpha, beta)
    for index in range(DRAWS):
        low, high = gain_bounds(own[index], alpha[index], beta[index], kind)
        assert low * (1 - 1e-6) - 1e-9 <= others[index] <= high * (1 + 1e-6) + 1e-9, index


def test_the_sharp_bounds_lie_within_the_paper_s(agents):
    seller, buyer, alpha, beta = agents
    own, _ = gains(seller, buyer, alpha, beta)
    narrower = 0
    for index in range(2000):
        paper, sharp = (gain_bounds(own[index], alpha[index], beta[index], kind) for kind in ("paper", "sharp"))
        assert paper[0] <= sharp[0] * (1 + 1e-9)
        assert sharp[1] <= paper[1] * (1 + 1e-9)
        narrower += sharp[1] < paper[1]
    assert narrower > 1000


def test_the_sharp_bounds_are_attained():
    """Errors in the same or in opposite directions after the seller's purchase attain them."""
    generator = np.random.default_rng(1)
    for _ in range(2000):
        alpha, beta = generator.uniform(0.05, 0.95, 2)
        merged, seller = 1.0, generator.choice([-1, 1]) * generator.lognormal(0, 1)
        buyer = (merged - (1 - alpha) * seller) / alpha
        own, other = (seller / merged) ** 2, (buyer / ((1 - beta) * buyer + beta * seller)) ** 2
        assert any(other == pytest.approx(bound, rel=1e-6) for bound in gain_bounds(own, alpha, beta))


def test_with_optimal_weights_the_gain_is_known_exactly(agents):
    seller, buyer, *_ = agents
    step = ((seller - buyer) ** 2).sum(1)
    alpha = (seller * (seller - buyer)).sum(1) / step
    inside = (alpha > 0.01) & (alpha < 0.99)
    own, others = gains(seller, buyer, alpha, 1 - alpha)
    found = np.array([exact_gain(gain, weight) for gain, weight in zip(own[inside], alpha[inside], strict=True)])
    assert inside.sum() > 20_000
    assert np.allclose(found, others[inside], rtol=1e-6)


def test_the_printed_upper_bound_is_infinite_where_its_denominator_is_not_positive():
    assert gain_bounds(4.0, 0.2, 0.9, "paper")[1] == math.inf
    assert gain_bounds(1.0, 1.0, 0.0)[1] < math.inf


@pytest.mark.parametrize("kind", ["paper", "sharp"])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_a_seller_that_would_buy_nothing_learns_nothing(kind, beta):
    assert gain_bounds(1.0, 0.0, beta, kind) == (0.0, math.inf)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, 0.5, 0.5), "bounds need a gain of at least 0 and weights"),
        ((math.nan, 0.5, 0.5), "bounds need a gain of at least 0 and weights"),
        ((1.0, 1.5, 0.5), "bounds need a gain of at least 0 and weights"),
        ((1.0, 0.5, 0.5, "guess"), "must be one of paper, sharp; got 'guess'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(MarketError, match=message):
        gain_bounds(*arguments)
    with pytest.raises(MarketError, match="needs a gain of at least 0 and a weight"):
        exact_gain(1.2, 0.0)
