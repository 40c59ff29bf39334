"""Tables of a ledger."""

from collections.abc import Sequence
from statistics import mean

from fl_market.errors import MarketError
from fl_market.ledger import Deal, DealState, Ledger
from fl_market.pricing.money import credits_text
from fl_market.reports.table import summary_table


def ledger_table(ledger: Ledger) -> str:
    """Return accounts, deals and price history as text, amounts in credits."""
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
    return f"{accounts}\n\n{deals}\n\n{_price_history(ledger.deals())}"


def statement_table(ledger: Ledger, account: str) -> str:
    """Return every entry of one account with the balance after it, in credits.

    Raises
    ------
    MarketError
        If the ledger has no such account.
    """
    balances = ledger.balances()
    if account not in balances:
        raise MarketError(f"the ledger has no account {account!r}; it has {', '.join(balances)}")
    balance, rows = 0, []
    for entry in ledger.entries():
        change = (entry.amount if entry.payee == account else 0) - (entry.amount if entry.payer == account else 0)
        if change:
            balance += change
            other = entry.payer if change > 0 else entry.payee
            rows.append(
                (str(entry.sequence), entry.step, entry.deal, other, credits_text(change), credits_text(balance))
            )
    header = ("entry", "step", "deal", "from or to", "amount", "balance")
    return summary_table(f"Statement of {account}", header, rows)


def _price_history(deals: Sequence[tuple[Deal, DealState]]) -> str:
    by_round: dict[int, list[int]] = {}
    for deal, state in deals:
        if state.paid:
            by_round.setdefault(deal.round, []).append(deal.price)
    rows = [
        (str(number), str(len(prices)), *(credits_text(round(f(prices))) for f in (min, mean, max)))
        for number, prices in sorted(by_round.items())
    ]
    return summary_table("Prices of settled deals", ("round", "deals", "lowest", "mean", "highest"), rows)
