"""A ledger as a file: CSV for spreadsheets, JSON for programs, Beancount for accountants."""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta

from fl_market.ledger import ENDOWMENT, ESCROW, Entry, Ledger
from fl_market.pricing.money import credits_text

CURRENCY = "CREDIT"


def as_csv(ledger: Ledger) -> str:
    """Return the journal, one entry a line, amounts in micro-credits."""
    buffer = io.StringIO()
    entries = [entry._asdict() for entry in ledger.entries()]
    writer = csv.DictWriter(buffer, fieldnames=list(entries[0]) if entries else ["sequence"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(entries)
    return buffer.getvalue()


def as_json(ledger: Ledger) -> str:
    """Return accounts, deals and the journal, amounts in micro-credits."""
    document = {
        "accounts": ledger.balances(),
        "deals": [{**deal._asdict(), "state": str(state)} for deal, state in ledger.deals()],
        "entries": [entry._asdict() for entry in ledger.entries()],
    }
    return json.dumps(document, indent=1) + "\n"


def as_beancount(ledger: Ledger) -> str:
    """Return the transfers as transactions, and the final balances as assertions.

    ``bean-check`` verifies the assertions. Amounts are in credits. Agents' balances are assets in
    the market's books; the endowment is equity.
    """
    entries = ledger.entries()
    names = _account_names(ledger.balances())
    days = [_day(entry) for entry in entries] or [date(1970, 1, 1)]
    # Beancount tolerates small differences; here a difference of one micro-credit is an error
    lines = [f'option "operating_currency" "{CURRENCY}"', 'option "tolerance_multiplier" "0.1"', ""]
    lines += [f"{min(days)} open {account} {CURRENCY}" for account in names.values()]
    for entry in entries:
        if entry.amount:
            title = f"{entry.step} {entry.deal}".strip().replace('"', "'")
            lines += [
                "",
                f'{_day(entry)} * "{title}"',
                f"  sequence: {entry.sequence}",
                f"  {names[entry.payee]}  {credits_text(entry.amount)} {CURRENCY}",
                f"  {names[entry.payer]}  -{credits_text(entry.amount)} {CURRENCY}",
            ]
    # an assertion is about the beginning of its day
    after = max(days) + timedelta(days=1)
    lines += [
        "",
        *(
            f"{after} balance {names[name]}  {credits_text(balance)} {CURRENCY}"
            for name, balance in ledger.balances().items()
        ),
    ]
    return "\n".join(lines) + "\n"


FORMATS: Mapping[str, Callable[[Ledger], str]] = {"csv": as_csv, "json": as_json, "beancount": as_beancount}
"""The formats by name."""


def _account_names(accounts: Mapping[str, int]) -> dict[str, str]:
    """Return a unique Beancount name for every account: letters, digits and dashes."""
    names = {ENDOWMENT: "Equity:Endowment", ESCROW: "Assets:Escrow"}
    for account in accounts:
        if account not in names:
            base = "Assets:Agents:A-" + (re.sub(r"[^A-Za-z0-9]+", "-", account).strip("-") or "x")
            name, count = base, 1
            while name in names.values():
                name, count = f"{base}-{count}", count + 1
            names[account] = name
    return names


def _day(entry: Entry) -> date:
    return datetime.fromtimestamp(entry.recorded_at, UTC).date()
