"""The append-only journal: each entry carries the hash of the one before it."""

import hashlib
import json
from dataclasses import dataclass

GENESIS = "0" * 64


@dataclass(frozen=True)
class Entry:
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
        content = {  # in the order of names, which json.dumps need not sort: a ledger has many entries
            "amount": self.amount,
            "deal": self.deal,
            "memo": self.memo,
            "payee": self.payee,
            "payer": self.payer,
            "previous": self.previous,
            "recorded_at": self.recorded_at,
            "sequence": self.sequence,
            "step": self.step,
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
