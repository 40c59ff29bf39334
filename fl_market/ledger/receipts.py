"""An agent's own journal of receipts, held against the broker's ledger."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fl_market.errors import MarketError
from fl_market.ledger.deals import Deal, DealState
from fl_market.pricing.money import credits_text

Entry = Mapping[str, Any]
"""A receipt as the journal has it: ``run``, ``round``, ``deal``, ``side``, ``partner``, ``price``."""


def read_receipts(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a journal, one JSON object a line; a last line that was cut off is left out.

    Raises
    ------
    MarketError
        If the file cannot be read, or another line is no receipt.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise MarketError(f"the receipts cannot be read from {path}: {error.strerror}") from error
    entries = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last end of line was never finished
        try:
            entry = json.loads(line)
            entries.append({name: entry[name] for name in ("run", "round", "deal", "side", "partner", "price")})
        except (ValueError, KeyError, TypeError) as error:
            raise MarketError(f"line {number} of {path} is no receipt") from error
    return entries


def reconcile(account: str, deals: Sequence[tuple[Deal, DealState]], receipts: Sequence[Entry]) -> list[str]:
    """Return where an agent's receipts and the ledger's settled deals of its account differ, one sentence each.

    Parameters
    ----------
    account
        The agent's name.
    deals
        Of the ledger.
    receipts
        The agent's own. Of its partners it knows pseudonyms only, so that round, side and price are compared.
    """
    booked: Counter[tuple[int, str, int]] = Counter()
    open_rounds = set()
    for deal, state in deals:
        for side, name in (("bought", deal.buyer), ("sold", deal.seller)):
            if name == account and state.paid:
                booked[deal.round, side, deal.price] += 1
            elif name == account and state in (DealState.ESCROWED, DealState.DELIVERED):
                open_rounds.add(deal.round)
    received = Counter((int(entry["round"]), str(entry["side"]), int(entry["price"])) for entry in receipts)
    problems = []
    for (number, side, price), count in sorted((booked - received).items()):
        problems.append(
            f"round {number}: the ledger has {account} {side} for {credits_text(price)}, {count} × unreceipted"
        )
    for (number, side, price), count in sorted((received - booked).items()):
        reason = "still open" if number in open_rounds else "refunded or missing"
        trade = f"{account} {side} for {credits_text(price)}"
        problems.append(f"round {number}: a receipt says {trade}, {count} × {reason} in the ledger")
    return problems
