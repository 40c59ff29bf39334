"""A ledger as tables."""

from fl_market.ledger import Ledger
from fl_market.pricing.money import credits_text
from fl_market.reports.table import summary_table


def ledger_table(ledger: Ledger) -> str:
    """Return the accounts and the deals as text, amounts in credits."""
    accounts = summary_table(
        "Accounts",
        ("account", "balance"),
        [(name, credits_text(balance)) for name, balance in ledger.balances().items()],
    )
    rows = [
        (
            str(deal.round),
            deal.buyer,
            deal.seller,
            credits_text(deal.bid),
            credits_text(deal.ask),
            credits_text(deal.price),
            f"{deal.gain:.4f}",
            f"{deal.alpha:.3f}",
            str(state),
        )
        for deal, state in ledger.deals()
    ]
    deals = summary_table("Deals", ("round", "buyer", "seller", "bid", "ask", "price", "gain", "α", "state"), rows)
    return f"{accounts}\n\n{deals}"
