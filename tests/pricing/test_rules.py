import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_market.errors import MarketError
from fl_market.pricing import PricingRule, ask, free, nash, nash_price, parse_rule, posted, split
from fl_market.pricing.testing import check_rule

RULES = (free, nash, ask, posted(400_000), split(0.0), split(0.25), split(1.0))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_passes_the_conformance_test(rule):
    report = check_rule(rule)
    assert report.scale_equivariant == (not rule.name.startswith("posted"))


def test_the_gain_from_a_false_report():
    """With uniform asks, a buyer under the midpoint rule bids two thirds and gains a twelfth."""
    assert check_rule(nash).buyer_misreport_gain == pytest.approx(1 / 12, abs=0.01)
    assert check_rule(ask).buyer_misreport_gain == 0
    assert check_rule(posted(500_000)).buyer_misreport_gain == 0
    assert check_rule(posted(500_000)).seller_misreport_gain == 0
    assert check_rule(split(1.0)).seller_misreport_gain == 0
    assert check_rule(split(1.0)).buyer_misreport_gain > 0.2


@pytest.mark.parametrize(
    ("price", "complaint"),
    [
        (lambda bid, ask: bid + 1 if bid >= ask else None, "individual rationality: a bid of 0 .* pays 1"),
        (lambda bid, ask: ask - 1 if bid >= ask > 0 else None, "individual rationality: an ask of"),
        (lambda bid, ask: ask / 1 if bid >= ask else None, "budget balance"),
        (lambda bid, ask: ask if ask <= bid < 700_000 else None, "monotonicity: raising the bid .* loses a deal"),
        (lambda bid, ask: max(ask, 500_000 - bid) if bid >= max(ask, 250_000) else None, "lowers the price"),
    ],
)
def test_a_rule_that_does_not_conform_is_refused(price, complaint):
    with pytest.raises(AssertionError, match=f"the rule 'own' must not be used: .*{complaint}"):
        check_rule(PricingRule("own", asks=True, price=price))


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_nash_is_the_middle_of_split_and_the_largest_nash_product(bid, lowest):
    price = nash.price(bid, lowest)
    assert price == split(0.5).price(bid, lowest)
    exact = nash_price(bid, lowest)
    if price is None:
        assert exact is None
        return
    assert 0 <= exact - price < 1
    grid = range(lowest, bid + 1, max(1, (bid - lowest) // 500))
    assert (bid - exact) * (exact - lowest) >= max((bid - other) * (other - lowest) for other in grid)


@pytest.mark.parametrize(
    ("text", "bid", "lowest", "price"),
    [("nash", 90, 10, 50), ("ask", 90, 10, 10), ("split(0.25)", 90, 10, 30), (" posted( 0.00002 )", 90, 10, 20)],
)
def test_rules_as_text(text, bid, lowest, price):
    assert parse_rule(text.strip() if text == text.strip() else text).price(bid, lowest) == price


@pytest.mark.parametrize("text", ["", "fair", "split", "split(2)", "posted(-1)", "split(x)", "posted(inf)"])
def test_invalid_texts_of_rules(text):
    with pytest.raises(MarketError):
        parse_rule(text)
