"""A conformance test for pricing rules: run it on a rule of your own before a market uses it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, product

from fl_market.pricing.money import CREDIT
from fl_market.pricing.rules import PricingRule

_GRID = tuple(range(0, CREDIT + 1, CREDIT // 20))
"""Tested bids and asks, in micro-credits: 0 to 1 credit."""
_SCALES = (2, 10, 1000)

Prices = Mapping[tuple[int, int], int | None]
"""(bid, ask) -> price, or None for no deal."""


@dataclass(frozen=True)
class RuleReport:
    """The properties of a rule that conforms.

    Attributes
    ----------
    scale_equivariant
        Whether prices scale with bids and asks, up to the rounding to whole micro-credits. A rule
        with a fixed amount does not, and need not.
    buyer_misreport_gain, seller_misreport_gain
        The most that a buyer (a seller) gains by a false report, in credits, for valuations of 0 to
        1 credit and on average over evenly spread reports of the other side. 0: the rule is
        truthful.
    """

    scale_equivariant: bool
    buyer_misreport_gain: float
    seller_misreport_gain: float


def check_rule(rule: PricingRule) -> RuleReport:
    """Return a rule's properties on a grid of bids and asks; raise if it does not conform.

    - *Individual rationality*: no buyer pays more than its bid. If the rule needs asks, no seller
      gets less than its ask.
    - *Budget balance*: the price is a whole amount of at least 0; the buyer pays what the seller
      gets.
    - *Monotonicity*: a higher bid loses no deal and lowers no price; a higher ask wins no deal and
      lowers no price.

    Parameters
    ----------
    rule
        Any pricing rule.

    Returns
    -------
    RuleReport
        Scale equivariance, and the gains of buyers and sellers from false reports.

    Raises
    ------
    AssertionError
        If one of the three is violated; the message gives an example of each violation.
    """
    prices = {(bid, ask): rule.price(bid, ask) for bid, ask in product(_GRID, _GRID)}
    violations = dict([*_rationality(rule, prices), *_balance(prices), *_monotonicity(prices)][::-1])
    if violations:
        examples = "; ".join(f"{name}: {example}" for name, example in sorted(violations.items()))
        raise AssertionError(f"the rule {rule.name!r} must not be used: {examples}")
    return RuleReport(
        scale_equivariant=_scales(rule, prices),
        buyer_misreport_gain=_misreport_gain(prices, buyer=True),
        seller_misreport_gain=_misreport_gain(prices, buyer=False),
    )


def _rationality(rule: PricingRule, prices: Prices) -> Iterator[tuple[str, str]]:
    for (bid, ask), price in prices.items():
        if price is not None and price > bid:
            yield "individual rationality", f"a bid of {bid} (ask {ask}) pays {price}"
        if price is not None and rule.asks and price < ask:
            yield "individual rationality", f"an ask of {ask} (bid {bid}) gets {price}"


def _balance(prices: Prices) -> Iterator[tuple[str, str]]:
    for (bid, ask), price in prices.items():
        if price is not None and (type(price) is not int or price < 0):
            yield "budget balance", f"a bid of {bid} and an ask of {ask} give {price!r}, which is not a whole amount"


def _monotonicity(prices: Prices) -> Iterator[tuple[str, str]]:
    for fixed in _GRID:
        for less, more in pairwise(_GRID):
            for name, before, after in (
                ("bid", prices[less, fixed], prices[more, fixed]),
                ("ask", prices[fixed, less], prices[fixed, more]),
            ):
                lost, won = before is not None and after is None, before is None and after is not None
                if (lost and name == "bid") or (won and name == "ask"):
                    yield (
                        "monotonicity",
                        f"raising the {name} from {less} to {more} {'loses' if lost else 'wins'} a deal",
                    )
                if before is not None and after is not None and after < before:
                    yield "monotonicity", f"raising the {name} from {less} to {more} lowers the price to {after}"


def _scales(rule: PricingRule, prices: Prices) -> bool:
    for (bid, ask), price in prices.items():
        for scale in _SCALES:
            scaled = rule.price(scale * bid, scale * ask)
            if (scaled is None) != (price is None):
                return False
            if price is not None and scaled is not None and abs(scaled - scale * price) > scale:
                return False
    return True


def _misreport_gain(prices: Prices, *, buyer: bool) -> float:
    """Return the most that one side gains by a false report.

    The maximum is over its valuations; the reports of the other side are averaged over.
    """

    def surplus(value: int, report: int) -> float:
        deals = [prices[(report, other) if buyer else (other, report)] for other in _GRID]
        return sum((value - price if buyer else price - value) for price in deals if price is not None) / len(_GRID)

    gains = (max(surplus(value, report) for report in _GRID) - surplus(value, value) for value in _GRID)
    return max(gains) / CREDIT
