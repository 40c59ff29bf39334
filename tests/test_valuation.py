import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_market.catalogue import find_valuation
from fl_market.configuration import Configuration
from fl_market.errors import MarketError
from fl_market.pricing import Exponential, Uniform, exact_gain, gain_bounds
from fl_market.protocol import Ask, Bid, DisclosedQuote, Offer, QuoteRequest
from fl_market.valuation import VALUATIONS, check_valuation, decide, value, value_disclosed

gain = VALUATIONS["gain"]


def offer(name, gain, bound, after="", layers="all"):
    return Offer(name, f"seller-{name}", layers, 0.5, gain, bound, after)


def test_the_bid_is_the_valuation_of_the_offer_with_the_highest_lower_bound():
    assert decide([offer("a", 0.9, 0.1), offer("b", 0.4, 0.3)], gain(2.0)) == [Bid("b", 800_000)]
    assert decide([], gain(2.0)) == []
    twins = [offer("z", 0.4, 0.3), offer("a", 0.4, 0.3)]
    assert decide(twins, gain())[0].offer == "z", "the first of equals: ids are random"


BUNDLE = [offer("a", 0.9, 0.1), offer("b", 0.4, 0.3), offer("b+c", 0.2, 0.1, "b"), offer("b+c+a", 0.1, 0.05, "b+c")]


def test_each_incremental_purchase_gets_a_bid_of_its_own():
    assert decide(BUNDLE, gain()) == [Bid("b", 400_000), Bid("b+c", 200_000), Bid("b+c+a", 100_000)]


@pytest.mark.parametrize(
    ("most_each", "most_in_all", "amounts"),
    [
        (150_000, None, [150_000, 150_000, 100_000]),
        (None, 500_000, [400_000, 100_000]),
        (150_000, 250_000, [150_000, 100_000]),
        (None, 0, []),
    ],
)
def test_limits(most_each, most_in_all, amounts):
    assert [bid.amount for bid in decide(BUNDLE, gain(), most_each, most_in_all)] == amounts


def test_a_valuation_of_one_s_own_decides_the_amounts():
    def by_weight(offer):
        return 3.0 * offer.alpha if offer.layers == "all" else -1.0

    assert decide([offer("a", 0.4, 0.3)], by_weight) == [Bid("a", 1_500_000)]
    assert decide([offer("a", 0.4, 0.3, layers="0")], by_weight) == [Bid("a", 0)], "a negative value counts as 0"


@pytest.mark.parametrize("worth", [math.nan, math.inf, 1e30])
def test_a_value_that_cannot_be_paid_is_no_bid(worth):
    with pytest.raises(MarketError, match="finite"):
        decide([offer("a", 0.4, 0.3)], lambda offer: worth)


def test_the_shipped_valuations_conform():
    for text in ("gain", "points(100)", "points(100, until=0.9, rounds=7)", "curve(0, 0, 0.9, 50)"):
        check_valuation(find_valuation(text, 2.0))


def leveled(before, after, number=7):
    return Offer(f"{number}/x", "x", "all", 0.5, 0.3, 0.1, "", before, after)


@pytest.mark.parametrize(
    ("text", "before", "after", "worth"),
    [
        ("points(100)", 0.5, 0.51, 100),
        ("points(100, until=0.9)", 0.85, 0.95, 500),
        ("points(100, until=0.9)", 0.91, 0.95, 0),
        ("points(100, 0.9)", 0.85, 0.87, 200),
        ("points(100)", 0.6, 0.5, -1000),
        ("points(100, rounds=7)", 0.5, 0.51, 100),
        ("points(100, rounds=6)", 0.5, 0.51, 0),
        ("curve(0.5, 0, 0.9, 80, 1, 90)", 0.4, 0.7, 40),
        ("curve(0.5, 0, 0.9, 80, 1, 90)", 0.85, 0.95, 15),
        ("curve(0.5, 0, 0.9, 80, rounds=6)", 0.5, 0.9, 0),
    ],
)
def test_what_a_level_is_worth(text, before, after, worth):
    assert find_valuation(text, 1.0)(leveled(before, after)) == pytest.approx(worth, abs=1e-9)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_levels_are_paid_once_whatever_the_number_of_purchases(first, second, third):
    valuation = find_valuation("curve(0.2, 0, 0.6, 70, 0.9, 80)", 1.0)
    low, middle, high = sorted((first, second, third))
    in_two = valuation(leveled(low, middle)) + valuation(leveled(middle, high))
    assert in_two == pytest.approx(valuation(leveled(low, high)))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("points", "lacks its numbers"),
        ("points(100, until=2)", r"until must be an accuracy in \(0, 1\]; got 2"),
        ("points(100, until=0.9, until=0.8)", "must have numbers separated by commas"),
        ("points(until=0.9, 100)", "must have numbers separated by commas"),
        ("points(100, unti=0.9)", "has invalid numbers"),
        ("points(100, rounds=1.5)", "must have a whole number for rounds; got 1.5"),
        ("points(100, rounds=-1)", "rounds must be at least 0; got -1"),
        ("curve(0.5, 0, 0.4, 80)", "must be two or more accuracies"),
        ("curve(0.5, 0, 0.9)", "must be two or more accuracies"),
        ("curve(0.5, 10, 0.9, 5)", "both in ascending order; got 0.5, 10, 0.9, 5"),
    ],
)
def test_levels_that_cannot_be_valued_are_refused(text, complaint):
    with pytest.raises(MarketError, match=complaint):
        find_valuation(text, 1.0)


def test_published_gains_tell_no_levels():
    with pytest.raises(MarketError, match="certificate must be run or trial with a valuation by levels"):
        Configuration.of(valuation="points(100)", certificate="published")


def test_a_purchase_on_approval_gets_a_bid_of_zero():
    free = Offer("7/x", "x", "all", 0.5, 0.0, 0.1, "", 0.5, 0.9)
    assert decide([free], find_valuation("points(100)", 1.0), most_in_all=10) == [Bid("7/x", 0)]


COUNT = itertools.count()


@pytest.mark.parametrize(
    ("valuation", "complaint"),
    [
        (lambda offer: str(offer.gain), "must return a number; got '0.0'"),
        (lambda offer: True, "must return a number; got True"),
        (lambda offer: 1 / offer.gain if offer.gain else math.inf, "must be finite"),
        (lambda offer: math.nan if offer.after else 0.0, "must be finite .* got nan"),
        (lambda offer: 1e15, "below 4611686018427 credits"),
        (lambda offer: next(COUNT), "must depend on the offer alone"),
    ],
)
def test_a_valuation_that_does_not_conform_is_refused(valuation, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_valuation(valuation)


def test_the_ask_is_the_myerson_price():
    requests = [QuoteRequest("q", "all"), QuoteRequest("r", "all")]
    assert value(requests, Uniform(0, 1), cost=0.2, bid_scale=2.0) == [Ask("q", 1_200_000), Ask("r", 1_200_000)]
    assert value(requests[:1], Exponential(10), cost=0.0, bid_scale=1.0) == [Ask("q", 100_000)]
    assert value(requests, Uniform(0, 1), cost=1.0, bid_scale=1.0) == [], "no price sells at a profit"


def test_the_ask_on_a_disclosed_quote():
    def asked(kind, cost=0.0, **disclosed):
        (ask,) = value_disclosed([DisclosedQuote("q", "all", **disclosed)], kind, cost, bid_scale=2.0)
        return ask.amount

    same = {"alpha": 0.4, "beta": 0.6, "gain": 1.5}
    gain = 1 - 1 / exact_gain(1.5, 0.4)
    assert asked("sharp", **same) == pytest.approx(2_000_000 * gain / 2, abs=1), "the Myerson price of U[0, gain]"
    assert asked("sharp", cost=0.2, **same) == pytest.approx(2_000_000 * (gain + 0.2) / 2, abs=1)
    assert asked("paper", **same) == 0, "the paper's lower bound lies below no gain at all"
    assert asked("paper", cost=0.3, **same) == 600_000
    other = {"alpha": 0.4, "beta": 0.3, "gain": 1.5}
    high = gain_bounds(1.5, 0.4, 0.3)[1]
    assert asked("sharp", **other) == pytest.approx(1_000_000 * (1 - 1 / high), abs=1)
    assert asked("sharp", alpha=0.0, beta=1.0, gain=1.0) == 1_000_000, "nothing is known: U[0, 1]"
