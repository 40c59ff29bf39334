"""The check of a ledger against its own journal.

The chain of hashes shows an edited, removed or reordered entry. It does not show an entry that
somebody wrote with a valid hash, so each entry is replayed by the terms of its deal: who pays whom,
how much, and in which state.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from fl_market.errors import MarketError
from fl_market.ledger.deals import STATES, SUCCESSORS, Deal, DealState
from fl_market.ledger.journal import GENESIS, Entry
from fl_market.naming import check_agent_name
from fl_market.pricing.money import LIMIT

ENDOWMENT = "market/endowment"
"""Source of all money: its balance is minus the sum of all others."""
ESCROW = "market/escrow"
"""Holds each payment until the buyer's acknowledgement."""
ENDOWED = "endowed"
"""Step of an account's first entry; its memo names the owner."""
FUNDED = "funded"
"""Step of an entry with which the operator funds an account; its memo says why."""

_TERMS = json.JSONDecoder()


def transfer_of(deal: Deal, target: DealState) -> tuple[str, str, int]:
    """Return payer, payee and amount of a deal's step; both are the buyer if no money moves.

    Examples
    --------
    >>> deal = Deal("d", 1, "A", "B", 40, 20, price=30, gain=0.1, lower_bound=0.05, alpha=0.5)
    >>> transfer_of(deal, DealState.SETTLED)
    ('market/escrow', 'B', 30)
    """
    if target is DealState.ESCROWED:
        return deal.buyer, ESCROW, deal.price
    if target is DealState.SETTLED:
        return ESCROW, deal.seller, deal.price
    if target is DealState.REFUNDED:
        return ESCROW, deal.buyer, deal.price
    return deal.buyer, deal.buyer, 0


def verify(entries: Iterable[Entry], balances: Mapping[str, int], deals: Iterable[tuple[Deal, DealState]]) -> list[str]:
    """Return the problems, one sentence each; an empty list if there are none.

    Parameters
    ----------
    entries, deals
        The whole journal, and all deals with their states.
    balances
        Account -> micro-credits.
    """
    replay = Replay()
    for entry in entries:
        replay.add(entry)
    return [*replay.problems, *replay.differences(balances, deals)]


@dataclass(frozen=True)
class Mark:
    """What a check without problems leaves for the next one, which then reads newer entries only.

    Attributes
    ----------
    sequence, hash
        Of the last entry that was checked.
    balances
        Account -> micro-credits after it.
    open
        Deals that had not ended, with their states.
    ended
        Number of the others.
    """

    sequence: int = 0
    hash: str = GENESIS
    balances: Mapping[str, int] = field(default_factory=dict)
    open: Sequence[tuple[Deal, DealState]] = ()
    ended: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads."""
        return {**vars(self), "open": [(deal._asdict(), str(state)) for deal, state in self.open]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the mark of a document.

        Raises
        ------
        KeyError, TypeError, ValueError
            If the document is none.
        """
        left = [(Deal(**terms), DealState(state)) for terms, state in document["open"]]
        return cls(**{**document, "open": left})


class Replay:
    """A ledger that is made again from its journal, entry by entry.

    Parameters
    ----------
    mark
        Where the replay begins; by default at the first entry.

    Attributes
    ----------
    problems
        What was wrong with the entries so far.
    """

    def __init__(self, mark: Mark | None = None) -> None:
        mark = mark or Mark()
        self.problems: list[str] = []
        self._previous, self._expected = mark.hash, mark.sequence + 1
        self._balances: dict[str, int] = defaultdict(int, mark.balances)
        self._accounts = set(mark.balances) - {ENDOWMENT, ESCROW}
        self._terms: dict[str, Deal | None] = {deal.id: deal for deal, _ in mark.open}  # None where they cannot be read
        self._states = {deal.id: state for deal, state in mark.open}
        self._ended = mark.ended

    @property
    def deals(self) -> Collection[str]:
        """Ids of the deals that were open at the mark, or are newer."""
        return self._states.keys()

    @property
    def number(self) -> int:
        """Number of all deals."""
        return self._ended + len(self._states)

    def mark(self) -> Mark:
        """Return where a later replay may begin."""
        left = [(deal, self._states[name]) for name, deal in self._terms.items() if deal and self._states[name].open]
        return Mark(self._expected - 1, self._previous, dict(self._balances), left, self.number - len(left))

    def add(self, entry: Entry) -> None:
        """Replay one more entry."""
        if entry.sequence != self._expected:
            self.problems.append(f"entry {self._expected} is missing")
        if entry.hash != entry.seal():
            self._report(entry, "was edited: its hash does not match its content")
        elif entry.previous != self._previous:
            self._report(entry, "does not refer to the entry before it: one was removed, replaced or reordered")
        self._previous, self._expected = entry.hash, entry.sequence + 1
        if entry.deal:
            self._check_step(entry)
        else:
            self._check_endowment(entry)
        if not isinstance(entry.amount, int) or not 0 <= entry.amount <= LIMIT:
            self._report(entry, f"has an invalid amount: must be a whole number from 0 to {LIMIT}; got {entry.amount}")
            return
        self._balances[entry.payer] -= entry.amount
        self._balances[entry.payee] += entry.amount
        if entry.payer != ENDOWMENT and self._balances[entry.payer] < 0:
            self._report(entry, f"takes more from {entry.payer!r} than its balance")

    def differences(self, balances: Mapping[str, int], deals: Iterable[tuple[Deal, DealState]]) -> list[str]:
        """Return how the ledger's balances and deals differ from those of the replay."""
        problems = [
            f"the balance of {name!r} is {balances.get(name)} micro-credits, but its entries add up to "
            f"{self._balances.get(name, 0)}"
            for name in sorted({*balances, *self._balances})
            if balances.get(name, 0) != self._balances.get(name, 0)
        ]
        problems += [
            f"the account {name!r} has no entry {ENDOWED}"
            for name in sorted(set(balances) - self._accounts - {ENDOWMENT, ESCROW})
        ]
        missing, different = set(self._states), []
        for deal, state in deals:
            missing.discard(deal.id)
            if self._terms.get(deal.id) != deal or self._states[deal.id] is not state:
                different.append(deal.id)
        return problems + [f"the deal {name!r} differs from its entries" for name in sorted([*missing, *different])]

    def _report(self, entry: Entry, problem: str) -> None:
        self.problems.append(f"entry {entry.sequence} {problem}")

    def _check_endowment(self, entry: Entry) -> None:
        if entry.step == FUNDED:
            self._check_funding(entry)
            return
        if entry.step != ENDOWED:
            self._report(entry, f"has no deal, so its step must be {ENDOWED} or {FUNDED}; got {entry.step!r}")
        elif entry.payer != ENDOWMENT:
            self._report(entry, f"endows from {entry.payer!r}; it must be from {ENDOWMENT!r}")
        elif entry.payee in self._accounts:
            self._report(entry, f"endows {entry.payee!r} a second time")
        elif not _is_agent(entry.payee):
            self._report(entry, f"endows {entry.payee!r}, which is no agent's name")
        self._accounts.add(entry.payee)

    def _check_funding(self, entry: Entry) -> None:
        if entry.payer != ENDOWMENT:
            self._report(entry, f"funds from {entry.payer!r}; it must be from {ENDOWMENT!r}")
        elif entry.payee not in self._accounts:
            self._report(entry, f"funds {entry.payee!r}, which has no account yet")

    def _check_step(self, entry: Entry) -> None:
        if entry.step not in STATES:
            self._report(entry, f"has an invalid step: must be one of {', '.join(DealState)}; got {entry.step!r}")
            return
        target, state = STATES[entry.step], self._states.get(entry.deal)
        self._states[entry.deal] = target
        if state is None:
            self._agree(entry, target)
            return
        if target not in SUCCESSORS[state]:
            self._report(entry, f"moves the deal {entry.deal!r} from {state} to {target}")
        elif entry.memo:
            self._report(entry, f"has a memo, which only the steps {ENDOWED} and {DealState.AGREED} have")
        self._check_transfer(entry, self._terms[entry.deal], target)

    def _agree(self, entry: Entry, target: DealState) -> None:
        deal = None
        if target is not DealState.AGREED:
            self._report(entry, f"moves the deal {entry.deal!r}, which has no entry {DealState.AGREED}")
        else:
            try:
                deal = _read_terms(entry.memo)
            except MarketError as error:
                self._report(entry, str(error))
        self._terms[entry.deal] = deal
        if deal is None:
            return
        if deal.id != entry.deal:
            self._report(entry, f"has the terms of another deal, {deal.id!r}")
        for name in (deal.buyer, deal.seller):
            if name not in self._accounts:
                self._report(entry, f"agrees on a deal with {name!r}, which has no account yet")
        self._check_transfer(entry, deal, target)

    def _check_transfer(self, entry: Entry, deal: Deal | None, target: DealState) -> None:
        if deal is None:  # reported already
            return
        due = transfer_of(deal, target)
        if (entry.payer, entry.payee, entry.amount) != due:
            self._report(
                entry,
                f"moves {entry.amount} from {entry.payer!r} to {entry.payee!r}, but the step {target} of the deal "
                f"{deal.id!r} moves {due[2]} from {due[0]!r} to {due[1]!r}",
            )


def check_terms(deal: Deal) -> None:
    """Raise unless a deal has two agents and a price in [0, bid], all in whole micro-credits.

    Raises
    ------
    MarketError
        If it has not.
    """
    whole = type(deal.bid) is type(deal.ask) is type(deal.price) is int
    if not whole or not 0 <= deal.price <= deal.bid <= LIMIT or not 0 <= deal.ask <= LIMIT or deal.buyer == deal.seller:
        raise MarketError(
            f"the deal {deal.id!r} must have two agents, and whole micro-credits with a price in [0, bid]; got "
            f"{deal.buyer!r}, {deal.seller!r}, a price of {deal.price}, a bid of {deal.bid} and an ask of {deal.ask}"
        )


def _read_terms(memo: str) -> Deal:
    try:
        terms, end = _TERMS.raw_decode(memo)
        deal = Deal(**(terms if end == len(memo) else {}))
    except (ValueError, TypeError):
        raise MarketError("has terms that cannot be read") from None
    check_terms(deal)
    return deal


def _is_agent(name: str) -> bool:
    try:
        check_agent_name(name)
    except MarketError:
        return False
    return True
