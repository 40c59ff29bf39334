"""What became of an agent's own quotes, and the prior that they teach.

It is kept in Flower's ``Context.state``, which never leaves the node. A sale reveals the buyer's bid where the pricing
rule does; else it shows that the bid was no lower than the ask, as a declined quote shows that it was lower.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ConfigRecord, Context

from fl_market.pricing import CREDIT, Empirical, PricingRule
from fl_market.protocol import Ask, PublicPrice, Receipt

RECORD = "quotes"
ENOUGH = 5
"""Quotes that a seller must have made before it trusts them more than its prior."""
REMEMBERED = 100
_PENDING, _DECLINED = -2, -1


def remember(context: Context, asks: Sequence[Ask]) -> None:
    """Note the asks of this round; what became of them is not known yet."""
    columns = _columns(context)
    for ask in asks:
        columns["quote"].append(ask.quote)
        columns["ask"].append(ask.amount)
        columns["price"].append(_PENDING)
    _store(context, columns)


def resolve(context: Context, receipts: Sequence[Receipt]) -> None:
    """Note what became of the asks of this round: sold at a price, or declined."""
    sold = {receipt.deal: receipt.price for receipt in receipts if receipt.side == "sold"}
    columns = _columns(context)
    columns["price"] = [
        sold.get(quote, _DECLINED) if price == _PENDING else price
        for quote, price in zip(columns["quote"], columns["price"], strict=True)
    ]
    _store(context, columns)


def learned_prior(
    context: Context, rule: PricingRule, bid_scale: float, public: Sequence[PublicPrice] = ()
) -> Empirical | None:
    """Return the prior over gains that past trades teach, or None while there are too few of them.

    The agent's own quotes tell most; while they are too few, the public prices of past deals help: each was worth
    its price to somebody.
    """
    columns = _columns(context)
    values: list[float] = []
    declined: list[float] = []
    accepted: list[float] = []
    unit = bid_scale * CREDIT
    if not unit:
        return None  # its asks say nothing of gains
    for ask, price in zip(columns["ask"], columns["price"], strict=True):
        if price == _DECLINED and ask > 0:
            declined.append(ask / unit)
        elif price >= 0 and rule.reveals is not None:
            values.append(rule.reveals(price, ask) / unit)
        elif price >= 0:
            accepted.append(ask / unit)
    if len(values) + len(declined) + len(accepted) < ENOUGH:
        accepted += [price.amount / unit for price in public]
    seen = len(values) + len(declined) + len(accepted)
    return Empirical(values, declined, accepted) if seen >= ENOUGH else None


def _columns(context: Context) -> dict[str, list[Any]]:
    stored: Mapping[str, Any] = context.state.config_records.get(RECORD, {})
    return {name: list(stored.get(name, [])) for name in ("quote", "ask", "price")}


def _store(context: Context, columns: Mapping[str, list[Any]]) -> None:
    context.state[RECORD] = ConfigRecord({name: values[-REMEMBERED:] for name, values in columns.items()})
