"""An agent's own journal of receipts, compared with the broker's ledger."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fl_market.errors import MarketError
from fl_market.ledger.deals import Deal, DealState
from fl_market.ledger.heads import SignedHead
from fl_market.pricing.money import credits_text

Entry = Mapping[str, Any]
"""A receipt in the journal: ``run``, ``round``, ``deal``, ``side``, ``partner``, ``price``.

Its ``head`` is the :class:`SignedHead` that came with it, or None.
"""


def read_receipts(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a journal, one JSON object a line, but no last line that was cut off.

    Raises
    ------
    MarketError
        If the file cannot be read, or another line is not a receipt.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise MarketError(f"the receipts cannot be read from {path}: {error.strerror}") from error
    entries = []
    for number, line in enumerate(lines[:-1], start=1):  # a crash cut off the text after the last end of line
        try:
            entry = json.loads(line.decode())
            known = {name: entry[name] for name in ("run", "round", "deal", "side", "partner", "price")}
            entries.append({**known, "head": _head(entry.get("head"))})
        except (ValueError, KeyError, TypeError) as error:
            raise MarketError(f"line {number} of {path} is not a receipt") from error
    return entries


def _head(columns: dict[str, Any] | None) -> SignedHead | None:
    if columns is None:
        return None
    head = SignedHead(**columns)
    if type(head.size) is not int or not all(isinstance(text, str) for text in (head.root, head.key, head.signature)):
        raise TypeError("a head has a whole number and three texts")
    return head


def heads_in(receipts: Sequence[Entry]) -> list[SignedHead]:
    """Return the signed heads among an agent's receipts, each once, in their order."""
    return list(dict.fromkeys(entry["head"] for entry in receipts if entry["head"] is not None))


def reconcile(account: str, deals: Sequence[tuple[Deal, DealState]], receipts: Sequence[Entry]) -> list[str]:
    """Return how an agent's receipts differ from the ledger's paid deals, one sentence each.

    Parameters
    ----------
    account
        The agent's name.
    deals
        The ledger's.
    receipts
        The agent's own. It knows its partners by pseudonyms only, so the comparison is of round,
        side and price.
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
            f"round {number}: the ledger has {account} {side} for {credits_text(price)}, {count} × without a receipt"
        )
    for (number, side, price), count in sorted((received - booked).items()):
        reason = "still open" if number in open_rounds else "refunded or missing"
        trade = f"{account} {side} for {credits_text(price)}"
        problems.append(f"round {number}: a receipt says {trade}, {count} × {reason} in the ledger")
    return problems
