"""Identifiers of deals, offers, quotes and receipts, and the pseudonyms inside them.

A deal's id begins with the name of its run, so that several runs can share one ledger. Agents see
each other under pseudonyms only, and the ids sent to them contain only pseudonyms.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence

Pseudonyms = Mapping[str, str]
"""Agent -> pseudonym, the same for the whole run."""


def with_pseudonyms(known: Pseudonyms, agents: Iterable[str]) -> Pseudonyms:
    """Return the pseudonyms of all agents; known ones stay, new ones are random.

    They come from the operating system's randomness, because every agent knows the run's seed. No
    result may depend on them.
    """
    return {**{agent: f"agent-{secrets.token_hex(8)}" for agent in agents}, **known}


def deal_id(run: str, market_round: int, buyer: str, seller: str) -> str:
    """Return the id of a deal in the ledger.

    Examples
    --------
    >>> deal_id("market", 5, "A", "B")
    'market/5/A/B'
    """
    return f"{run}/{market_round}/{buyer}/{seller}"


def is_deal_of(runs: Sequence[str], identifier: str) -> bool:
    """Return whether a deal belongs to one of the given runs.

    Examples
    --------
    >>> is_deal_of(["market", "market~2"], "market~2/5/A/B")
    True
    >>> is_deal_of(["market"], "market~2/5/A/B")
    False
    """
    return identifier.startswith(tuple(f"{run}/" for run in runs))


def offer_id(market_round: int, sellers: Iterable[str], pseudonyms: Pseudonyms) -> str:
    """Return the id of an offer, from one seller or from the sellers of a bundle in order.

    Examples
    --------
    >>> offer_id(5, ["B", "C"], {"B": "agent-1", "C": "agent-2"})
    '5/agent-1+agent-2'
    """
    return f"{market_round}/{'+'.join(pseudonyms[seller] for seller in sellers)}"


def partner_id(market_round: int, partner: str, pseudonyms: Pseudonyms) -> str:
    """Return the id under which one side knows a quote or a receipt with its partner.

    Examples
    --------
    >>> partner_id(5, "B", {"B": "agent-1"})
    '5/agent-1'
    """
    return f"{market_round}/{pseudonyms[partner]}"
