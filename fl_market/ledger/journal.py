"""The append-only journal: each entry carries the hash of the one before it."""

import hashlib
from json.encoder import encode_basestring_ascii as quoted
from typing import NamedTuple

GENESIS = "0" * 64


class Entry(NamedTuple):
    """One line of the journal: a transfer, which debits one account and credits another.

    Attributes
    ----------
    sequence
        1, 2, 3, … without gaps.
    step
        ``endowed``, or the new state of the deal.
    deal
        Id of the deal, or the empty string.
    payer, payee
        Accounts; both are the buyer if no money moves.
    amount
        Micro-credits, at least 0.
    memo
        The terms of the deal in the step ``agreed``, or the owner in the step ``endowed``.
    recorded_at
        Seconds since the epoch.
    previous, hash
        SHA-256 of the entry before it, and of this entry.
    """

    sequence: int
    step: str
    deal: str
    payer: str
    payee: str
    amount: int
    memo: str
    recorded_at: float
    previous: str
    hash: str = ""

    def seal(self) -> str:
        """Return the hash that this entry must carry."""
        # the text of json.dumps, in a third of its time: a ledger has many entries
        content = (
            f'{{"amount": {self.amount!r}, "deal": {quoted(self.deal)}, "memo": {quoted(self.memo)}, '
            f'"payee": {quoted(self.payee)}, "payer": {quoted(self.payer)}, "previous": {quoted(self.previous)}, '
            f'"recorded_at": {self.recorded_at!r}, "sequence": {self.sequence!r}, "step": {quoted(self.step)}}}'
        )
        return hashlib.sha256(content.encode()).hexdigest()
