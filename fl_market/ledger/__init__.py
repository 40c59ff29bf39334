"""Accounts, escrow and settlement (paper, section 3.1, step 6)."""

from fl_market.ledger.deals import Deal, DealState
from fl_market.ledger.heads import Head, SignedHead, Signer, rewritten
from fl_market.ledger.journal import Entry
from fl_market.ledger.ledger import Ledger
from fl_market.ledger.receipts import heads_in, read_receipts, reconcile
from fl_market.ledger.verification import ENDOWMENT, ESCROW

__all__ = [
    "ENDOWMENT",
    "ESCROW",
    "Deal",
    "DealState",
    "Entry",
    "Head",
    "Ledger",
    "SignedHead",
    "Signer",
    "heads_in",
    "read_receipts",
    "reconcile",
    "rewritten",
]
