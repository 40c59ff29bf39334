"""The append-only journal: each entry carries the hash of the one before it."""

import hashlib
import json
from dataclasses import asdict, dataclass

GENESIS = "0" * 64


@dataclass(frozen=True)
class Entry:
    """One line of the journal: a transfer from one account to another, which debits one and credits the other.

    Attributes
    ----------
    sequence
        1, 2, 3, … without gaps.
    step
        What happened: ``endowed``, or the state that the deal went into.
    deal
        Id of the deal, or the empty string.
    payer, payee
        Accounts; both are the buyer where no money moves.
    amount
        Micro-credits, at least 0.
    memo
        The terms of the deal, where it was agreed.
    recorded_at
        Seconds since the epoch.
    previous, hash
        SHA-256 of the entry before, and of this one.
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
        content = {name: value for name, value in asdict(self).items() if name != "hash"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
