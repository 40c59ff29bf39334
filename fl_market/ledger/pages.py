"""The rows that one transaction reads and changes, each once.

A round books hundreds of steps. Written one by one, most of the time goes to statements. Here the
steps change rows in memory, and the transaction writes them at its end with one statement for each
table. Nobody else writes in between: the transaction has held the write lock since it began.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from fl_market.errors import MarketError
from fl_market.ledger.deals import STATES, Deal, DealState
from fl_market.ledger.journal import GENESIS, Entry
from fl_market.ledger.schema import accounts, deals, entries
from fl_market.ledger.verification import ENDOWED, transfer_of

AT_ONCE = 500
"""Largest number of deals that one statement names."""


class Pages:
    """The rows of a transaction.

    Parameters
    ----------
    connection
        The connection in which the transaction has begun.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._balances: dict[str, int | None] = {}
        self._deals: dict[str, tuple[Deal, DealState] | None] = {}
        self._last: tuple[int, str] | None = None
        self._opened: set[str] = set()
        self._moved: set[str] = set()
        self._agreed: set[str] = set()
        self._advanced: dict[str, DealState] = {}
        self._entries: list[Entry] = []

    # -- reading

    def balance(self, name: str) -> int | None:
        """Return an account's balance, or None if there is no such account."""
        if name not in self._balances:
            found = self.connection.execute(select(accounts.c.balance).where(accounts.c.name == name))
            self._balances[name] = found.scalar_one_or_none()
        return self._balances[name]

    def owner(self, name: str) -> str:
        """Return the owner of an account, as the entry of its endowment names it."""
        self.write()
        opened = select(entries.c.memo).where(entries.c.step == ENDOWED, entries.c.payee == name)
        return str(self.connection.execute(opened.limit(1)).scalar_one_or_none() or "")

    def deal(self, identifier: str) -> tuple[Deal, DealState] | None:
        """Return a deal and its state, or None if there is no such deal."""
        if identifier not in self._deals:
            self.read_deals([identifier])
        return self._deals[identifier]

    def read_deals(self, identifiers: Iterable[str]) -> None:
        """Read deals whose steps follow, many with one statement."""
        wanted = [name for name in dict.fromkeys(identifiers) if name not in self._deals]
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            self._deals |= dict.fromkeys(some)
            for row in self.connection.execute(select(deals).where(deals.c.id.in_(some))):
                self._deals[row.id] = as_deal(row)

    # -- changing

    def open(self, name: str) -> None:
        """Add an account without money."""
        self._balances[name] = 0
        self._opened.add(name)

    def agree(self, deal: Deal) -> None:
        """Add a deal."""
        self._deals[deal.id] = deal, DealState.AGREED
        self._agreed.add(deal.id)
        self.record(DealState.AGREED, deal.id, *transfer_of(deal, DealState.AGREED), deal.terms())

    def advance(self, identifier: str, target: DealState) -> DealState:
        """Move a deal that has been read to its next state, and its money."""
        known = self._deals[identifier]
        assert known is not None
        deal, state = known
        self._deals[identifier] = deal, target
        if identifier not in self._agreed:
            self._advanced.setdefault(identifier, state)
        self.record(target, identifier, *transfer_of(deal, target))
        return target

    def record(self, step: str, deal: str, payer: str, payee: str, amount: int, memo: str = "") -> None:
        """Move money and append the entry."""
        if payer != payee:
            for name, change in ((payer, -amount), (payee, amount)):
                self._balances[name] = (self.balance(name) or 0) + change
                self._moved.add(name)
        sequence, previous = self._last or self._position()
        entry = Entry(sequence + 1, str(step), deal, payer, payee, amount, memo, time.time(), previous)
        entry = entry._replace(hash=entry.seal())
        self._last = entry.sequence, entry.hash
        self._entries.append(entry)

    def write(self) -> None:
        """Write what has changed since the last call.

        Raises
        ------
        MarketError
            If a deal has not the state that was read.
        """
        run = self.connection.execute
        new = [{"name": name, "balance": self._balances[name]} for name in sorted(self._opened)]
        if new:
            run(insert(accounts), new)
        moved = [{"account": name, "now": self._balances[name]} for name in sorted(self._moved - self._opened)]
        if moved:
            run(update(accounts).where(accounts.c.name == bindparam("account")).values(balance=bindparam("now")), moved)
        agreed = [self._deals[name] for name in sorted(self._agreed)]
        if agreed:
            run(insert(deals), [deal._asdict() | {"state": state} for deal, state in filter(None, agreed)])
        changes = [
            {"deal": name, "was": was, "now": known[1]}
            for name, was in sorted(self._advanced.items())
            if (known := self._deals[name]) is not None
        ]
        if changes:
            same = update(deals).where(deals.c.id == bindparam("deal"), deals.c.state == bindparam("was"))
            if run(same.values(state=bindparam("now")), changes).rowcount != len(changes):
                raise MarketError("another process changed a deal at the same time; nothing has changed here")
        if self._entries:
            run(insert(entries), [entry._asdict() for entry in self._entries])
        for pending in (self._opened, self._moved, self._agreed, self._advanced, self._entries):
            pending.clear()

    def _position(self) -> tuple[int, str]:
        newest = select(entries.c.sequence, entries.c.hash).order_by(entries.c.sequence.desc()).limit(1)
        last = self.connection.execute(newest).first()
        return (0, GENESIS) if last is None else (last.sequence, last.hash)


def as_deal(row: Sequence[Any]) -> tuple[Deal, DealState]:
    """Return the deal of a row, whose columns are its terms in their order, and its state.

    Raises
    ------
    MarketError
        If the state is none.
    """
    *terms, state = row
    if state not in STATES:
        raise MarketError(f"the state of the deal {row[0]!r} must be one of {', '.join(DealState)}; got {state!r}")
    return Deal._make(terms), STATES[state]
