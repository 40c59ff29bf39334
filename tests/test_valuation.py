import itertools
import math

import pytest

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
    for make in VALUATIONS.values():
        check_valuation(make(2.0))


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
