"""The ledger: integer micro-credits, double entry, one transaction for each step."""

import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, Engine, false, func, insert, or_, select
from sqlalchemy.exc import SQLAlchemyError

from fl_market.errors import MarketError
from fl_market.ledger.database import READING, name_of, open_database, reason_of
from fl_market.ledger.deals import SUCCESSORS, Deal, DealState
from fl_market.ledger.heads import Head, Tree
from fl_market.ledger.journal import GENESIS, Entry
from fl_market.ledger.pages import Pages, as_deal
from fl_market.ledger.schema import accounts, deals, entries, runs
from fl_market.ledger.verification import ENDOWED, ENDOWMENT, ESCROW, FUNDED, Mark, Replay, check_terms, verify
from fl_market.naming import check_agent_name
from fl_market.pricing.money import LIMIT, credits_text
from fl_market.timing import timed


class Ledger:
    """Accounts, deals and their journal, in one database.

    Each method that changes something is one transaction. It is idempotent: called again it changes
    nothing (:meth:`begin_run` excepted). The sum of all balances is 0 at every commit. No balance
    is ever below 0 but that of the endowment account.

    Parameters
    ----------
    engine
        The engine of :func:`fl_market.ledger.database.open_database`.

    Examples
    --------
    >>> with Ledger.open() as ledger:
    ...     ledger.open_account("A", 5_000_000)
    5000000
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tree = Tree()
        self._joined = threading.local()

    @classmethod
    def open(cls, url: str = "sqlite://") -> Self:
        """Return the ledger at a database URL; create it if there is none.

        Parameters
        ----------
        url
            ``sqlite:///market.db``, ``sqlite://`` (in memory) or ``postgresql+psycopg://…``.

        Raises
        ------
        MarketError
            If the database cannot be opened.
        """
        ledger = cls(open_database(url))
        with ledger._change() as pages:
            for name in (ENDOWMENT, ESCROW):
                if pages.balance(name) is None:
                    pages.open(name)
        return ledger

    @classmethod
    def open_existing(cls, url: str) -> Self:
        """Return an existing ledger; create nothing.

        Raises
        ------
        MarketError
            If there is no ledger at the URL.
        """
        return cls(open_database(url, create=False))

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin_run(self, arm: str) -> str:
        """Return the first unused name among ``arm``, ``arm~2``, ``arm~3``, … and reserve it.

        The ids of a run's deals begin with this name. Runs that share a ledger, even at the same
        time, and runs that repeat lost rounds of another, thus never mistake each other's deals.
        """
        with self._change() as pages:
            taken = set(pages.connection.execute(select(runs.c.name)).scalars())
            names = chain([arm], (f"{arm}~{number}" for number in count(2)))
            name = next(name for name in names if name not in taken)
            pages.connection.execute(insert(runs).values(name=name))
        return name

    def runs(self) -> list[str]:
        """Return the names of all runs."""
        with self._snapshot() as connection:
            return list(connection.execute(select(runs.c.name).order_by(runs.c.name)).scalars())

    @contextmanager
    def together(self, deals: Iterable[str] = ()) -> Iterator[None]:
        """Make one transaction of all steps inside the block: all of them take place, or none does.

        Inside another such block, the steps belong to its transaction. A commit waits for the disk,
        so that many steps are much faster together.

        Parameters
        ----------
        deals
            Ids of deals of these steps, to read them at once; others are read one by one.

        Examples
        --------
        >>> with Ledger.open() as ledger, ledger.together():
        ...     balances = [ledger.open_account(name, 5_000_000) for name in "AB"]
        """
        with self._change() as pages:
            pages.read_deals(deals)
            outer = getattr(self._joined, "pages", None)
            self._joined.pages = pages
            try:
                yield
            finally:
                self._joined.pages = outer

    # -- accounts

    def open_account(self, name: str, endowment: int, owner: str = "") -> int:
        """Open an agent's account with an endowment, unless it exists; return its balance.

        Parameters
        ----------
        name
            Name of the account.
        endowment
            First balance in micro-credits, at least 0.
        owner
            Owner of the account, which the entry of the endowment keeps; empty for none.

        Raises
        ------
        MarketError
            If the name or the endowment is invalid, or the account belongs to another owner.
        """
        check_agent_name(name)
        if not 0 <= endowment <= LIMIT:
            most = credits_text(LIMIT)
            raise MarketError(
                f"an endowment must be at least 0 and at most {most}; got {credits_text(endowment)} credits"
            )
        with self._change() as pages:
            balance = pages.balance(name)
            if balance is None:
                pages.open(name)
                pages.record(ENDOWED, "", ENDOWMENT, name, endowment, owner)
                balance = endowment
            elif pages.owner(name) != owner:
                raise MarketError(f"the account {name!r} belongs to another node")
            return balance

    def fund(self, name: str, amount: int, memo: str = "") -> int:
        """Add the operator's credits to an account, each time anew; return its balance.

        Parameters
        ----------
        name
            Name of an existing account.
        amount
            Micro-credits, above 0.
        memo
            The reason, for the journal.

        Raises
        ------
        MarketError
            If there is no such account, or the amount is out of range.
        """
        if not 0 < amount <= LIMIT:
            raise MarketError(f"an amount must be above 0 and at most {LIMIT} micro-credits; got {amount}")
        with self._change() as pages:
            balance = pages.balance(name)
            if balance is None or name in (ENDOWMENT, ESCROW):
                raise MarketError(f"the ledger has no account {name!r} of an agent")
            if balance + amount > LIMIT:
                raise MarketError(f"the balance of {name!r} would exceed {credits_text(LIMIT)} credits")
            pages.record(FUNDED, "", ENDOWMENT, name, amount, memo)
            return balance + amount

    def balance(self, name: str) -> int:
        """Return an account's balance in micro-credits.

        Raises
        ------
        MarketError
            If there is no such account.
        """
        with self._snapshot() as connection:
            balance = Pages(connection).balance(name)
        if balance is None:
            raise MarketError(f"the ledger has no account {name!r}")
        return balance

    def balances(self) -> dict[str, int]:
        """Return every account's balance in micro-credits, by name."""
        with self._snapshot() as connection:
            return _balances(connection)

    # -- the steps of a deal

    def agree(self, deal: Deal) -> DealState:
        """Record a deal.

        Raises
        ------
        MarketError
            If a deal with this id and other terms exists, a side has no account, or the price is
            not in [0, bid].
        """
        check_terms(deal)
        with self._change() as pages:
            known = pages.deal(deal.id)
            if known is not None:
                if known[0] != deal:
                    raise MarketError(f"the deal {deal.id!r} exists already, with other terms")
                return known[1]
            for name in (deal.buyer, deal.seller):
                if pages.balance(name) is None:
                    raise MarketError(f"the ledger has no account {name!r}")
            pages.agree(deal)
            return DealState.AGREED

    def escrow(self, deal_id: str) -> DealState:
        """Move the price into escrow; void the deal if the buyer's balance does not cover it."""
        with self._change() as pages:
            deal, state = _known(pages, deal_id)
            if state is not DealState.AGREED:
                return state
            covered = (pages.balance(deal.buyer) or 0) >= deal.price
            return pages.advance(deal_id, DealState.ESCROWED if covered else DealState.VOID)

    def deliver(self, deal_id: str) -> DealState:
        """Record that the parameters were sent to the buyer."""
        return self._step(deal_id, DealState.DELIVERED)

    def settle(self, deal_id: str) -> DealState:
        """Pay the seller out of escrow, after the buyer's acknowledgement."""
        return self._step(deal_id, DealState.SETTLED)

    def refund(self, deal_id: str) -> DealState:
        """Pay the buyer back out of escrow, after a missing acknowledgement."""
        return self._step(deal_id, DealState.REFUNDED)

    def abandon(self, deal_id: str) -> DealState:
        """End a deal of a lost round: refund it from escrow, or void it if it is only agreed."""
        with self._change() as pages:
            _, state = _known(pages, deal_id)
            if state is DealState.AGREED:
                return pages.advance(deal_id, DealState.VOID)
            if DealState.REFUNDED not in SUCCESSORS[state]:
                return state
            return pages.advance(deal_id, DealState.REFUNDED)

    def state(self, deal_id: str) -> DealState:
        """Return the state of a deal."""
        with self._snapshot() as connection:
            return _known(Pages(connection), deal_id)[1]

    def deals(self) -> list[tuple[Deal, DealState]]:
        """Return all deals with their states, in the order of rounds and ids."""
        with self._snapshot() as connection:
            rows = connection.execute(select(deals).order_by(deals.c.round, deals.c.id)).all()
        return [as_deal(row) for row in rows]

    def last_paid(self, runs: Collection[str], number: int) -> list[Deal]:
        """Return the last paid deals of some runs, the latest first.

        Only these are read, so that the time does not grow with the ledger.

        Parameters
        ----------
        runs
            Names of the runs, with which the ids of their deals begin.
        number
            Largest number of deals.
        """
        # no comparison that an index of ids could serve: that by rounds ends after the last ones
        own = or_(false(), *(func.substr(deals.c.id, 1, len(run) + 1) == f"{run}/" for run in runs))
        paid = deals.c.state.in_([state for state in DealState if state.paid])
        latest = select(deals).where(own, paid).order_by(deals.c.round.desc(), deals.c.id.desc()).limit(number)
        with self._snapshot() as connection:
            return [as_deal(row)[0] for row in connection.execute(latest)]

    def open_since(self, moment: float) -> list[str]:
        """Return the ids of the deals that are open, and whose last step was before a moment.

        Parameters
        ----------
        moment
            Seconds since the epoch.
        """
        ended = [state for state in DealState if not state.open]
        last = func.max(entries.c.recorded_at)
        found = (
            select(deals.c.id)
            .join(entries, entries.c.deal == deals.c.id)
            .where(deals.c.state.not_in(ended))
            .group_by(deals.c.id)
            .having(last < moment)
            .order_by(deals.c.id)
        )
        with self._snapshot() as connection:
            return list(connection.execute(found).scalars())

    def entries(self) -> list[Entry]:
        """Return the whole journal, in its order."""
        with self._snapshot() as connection:
            return list(_entries(connection))

    def size(self) -> tuple[int, int]:
        """Return the numbers of entries and of deals."""
        with self._snapshot() as connection:
            numbers = [connection.execute(select(func.count()).select_from(table)) for table in (entries, deals)]
            return numbers[0].scalar_one(), numbers[1].scalar_one()

    def position(self) -> tuple[int, str]:
        """Return number and hash of the journal's last entry, to which a checkpoint refers."""
        with self._snapshot() as connection:
            last = connection.execute(
                select(entries.c.sequence, entries.c.hash).order_by(entries.c.sequence.desc()).limit(1)
            ).first()
        return (0, GENESIS) if last is None else (last.sequence, last.hash)

    def holds(self, position: tuple[int, str]) -> bool:
        """Return whether this is a position of the journal, so that a checkpoint belongs to it."""
        if position == (0, GENESIS):
            return True
        with self._snapshot() as connection:
            found = connection.execute(select(entries.c.hash).where(entries.c.sequence == position[0]))
            return bool(found.scalar_one_or_none() == position[1])

    def head(self) -> Head:
        """Return the head of the journal's Merkle tree; each entry is read once."""
        with self._snapshot() as connection:
            newer = select(entries.c.hash).where(entries.c.sequence > self._tree.size).order_by(entries.c.sequence)
            self._tree.extend(map(bytes.fromhex, connection.execute(newer).scalars()))
        return Head(self._tree.size, self._tree.root().hex())

    def hashes(self) -> list[str]:
        """Return the hashes of all entries, in their order."""
        with self._snapshot() as connection:
            return list(connection.execute(select(entries.c.hash).order_by(entries.c.sequence)).scalars())

    def verify(self) -> list[str]:
        """Return the ledger's problems, one sentence each; an empty list if there are none."""
        with self._snapshot() as connection:
            rows = connection.execute(select(deals).execution_options(yield_per=1000))
            return verify(_entries(connection), _balances(connection), map(as_deal, rows))

    def verify_since(self, mark: Mark) -> tuple[list[str], Mark]:
        """Check the entries after an earlier check without problems, and the deals that they touch.

        Edits of older entries and deals are not searched for: :meth:`verify` finds them.

        Parameters
        ----------
        mark
            What the earlier check left.

        Returns
        -------
        problems
            One sentence each.
        mark
            Where the next check may begin, if there are none.
        """
        replay = Replay(mark)
        with self._snapshot() as connection:
            last = connection.execute(select(entries.c.hash).where(entries.c.sequence == mark.sequence)).scalar()
            if (last or GENESIS) != mark.hash:
                return [f"entry {mark.sequence} is not the one of the earlier check: the history was rewritten"], mark
            for entry in _entries(connection, after=mark.sequence):
                replay.add(entry)
            pages = Pages(connection)
            pages.read_deals(replay.deals)
            touched = [known for name in replay.deals if (known := pages.deal(name)) is not None]
            number = connection.execute(select(func.count()).select_from(deals)).scalar_one()
            problems = [*replay.problems, *replay.differences(_balances(connection), touched)]
        if number != replay.number:
            problems.append(f"the ledger has {number} deals, but its entries have {replay.number}")
        return problems, replay.mark()

    # -- inside

    def _step(self, deal_id: str, target: DealState) -> DealState:
        with self._change() as pages:
            _, state = _known(pages, deal_id)
            if target not in SUCCESSORS[state]:
                if state is DealState.AGREED or (state is DealState.ESCROWED and target is DealState.SETTLED):
                    raise MarketError(f"the deal {deal_id!r} cannot become {target} yet: it is {state}")
                return state
            return pages.advance(deal_id, target)

    @contextmanager
    def _change(self) -> Iterator[Pages]:
        """Begin a transaction that writes, unless one is open: see :meth:`together`."""
        if (joined := getattr(self._joined, "pages", None)) is not None:
            yield joined
            return
        with self._transaction(self._engine) as connection:
            pages = Pages(connection)
            yield pages
            pages.write()

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        """Begin a transaction that only reads one state of the ledger, in no writer's way.

        Inside :meth:`together`, it is the state after the steps so far.
        """
        if (joined := getattr(self._joined, "pages", None)) is not None:
            joined.write()
            yield joined.connection
            return
        with self._transaction(self._engine.execution_options(**READING)) as connection:
            yield connection

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        """Begin a transaction. A database error, also in the commit, becomes one sentence."""
        try:
            with timed("ledger"), engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise MarketError(
                f"the ledger {name_of(self._engine.url)} refused a transaction, and nothing has changed: "
                f"{reason_of(error)}"
            ) from error


def _known(pages: Pages, deal_id: str) -> tuple[Deal, DealState]:
    known = pages.deal(deal_id)
    if known is None:
        raise MarketError(f"the ledger has no deal {deal_id!r}")
    return known


def _balances(connection: Connection) -> dict[str, int]:
    rows = connection.execute(select(accounts.c.name, accounts.c.balance).order_by(accounts.c.name))
    return {row.name: row.balance for row in rows}


def _entries(connection: Connection, after: int = 0) -> Iterator[Entry]:
    newer = select(entries).where(entries.c.sequence > after).order_by(entries.c.sequence)
    found = connection.execute(newer.execution_options(yield_per=1000))
    return map(Entry._make, found)  # the table has the columns of an entry, in their order
