"""The check of a ledger against its own journal."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from fl_market.ledger.deals import SUCCESSORS, Deal, DealState
from fl_market.ledger.journal import GENESIS, Entry

_OPEN = (DealState.ESCROWED, DealState.DELIVERED)


def verify(
    entries: Sequence[Entry],
    balances: Mapping[str, int],
    deals: Sequence[tuple[Deal, DealState]],
    endowment: str,
    escrow: str,
) -> list[str]:
    """Return the problems, one sentence each; an empty list if there are none.

    The chain of hashes shows an edited, removed or reordered entry. The replay of the journal shows
    a balance or a deal that was edited beside it, and entries that were cut off its end.

    Parameters
    ----------
    entries, deals
        The whole journal, and all deals with their states.
    balances
        Account -> micro-credits.
    endowment, escrow
        Names of the market's own accounts.
    """
    problems = _check_chain(entries)
    replayed: dict[str, int] = defaultdict(int)
    states: dict[str, tuple[str, DealState]] = {}
    for entry in entries:
        replayed[entry.payer] -= entry.amount
        replayed[entry.payee] += entry.amount
        if entry.payer != endowment and replayed[entry.payer] < 0:
            problems.append(f"entry {entry.sequence} takes more from {entry.payer!r} than its balance")
        if entry.deal:
            problems.extend(_replay_step(entry, states))
    for name in sorted({*balances, *replayed}):
        if balances.get(name, 0) != replayed[name]:
            problems.append(
                f"the balance of {name!r} is {balances.get(name)} micro-credits, but its entries add up to "
                f"{replayed[name]}"
            )
    if sum(balances.values()) != 0:
        problems.append(f"all balances must add up to 0; got {sum(balances.values())} micro-credits")
    held = sum(deal.price for deal, state in deals if state in _OPEN)
    if balances.get(escrow, 0) != held:
        problems.append(
            f"the escrow holds {balances.get(escrow, 0)} micro-credits, but the open deals add up to {held}"
        )
    known = {deal.id: (deal.terms(), state) for deal, state in deals}
    for identifier in sorted({*known, *states}):
        if known.get(identifier) != states.get(identifier):
            problems.append(f"the deal {identifier!r} differs from its entries")
    return problems


def _check_chain(entries: Sequence[Entry]) -> list[str]:
    problems = []
    previous, expected = GENESIS, 1
    for entry in entries:
        if entry.sequence != expected:
            problems.append(f"entry {expected} is missing")
        if entry.hash != entry.seal():
            problems.append(f"entry {entry.sequence} was edited: its hash does not match its content")
        elif entry.previous != previous:
            problems.append(
                f"entry {entry.sequence} does not refer to the entry before it: one was removed, replaced or reordered"
            )
        previous, expected = entry.hash, entry.sequence + 1
    return problems


def _replay_step(entry: Entry, states: dict[str, tuple[str, DealState]]) -> list[str]:
    if entry.step not in set(DealState):
        return [
            f"entry {entry.sequence} has an invalid step: must be one of {', '.join(DealState)}; got {entry.step!r}"
        ]
    target = DealState(entry.step)
    known = states.get(entry.deal)
    if known is None:
        states[entry.deal] = (entry.memo, target)
        return (
            []
            if target is DealState.AGREED
            else [f"entry {entry.sequence} moves the deal {entry.deal!r}, which has no entry {DealState.AGREED}"]
        )
    terms, state = known
    states[entry.deal] = (terms, target)
    return (
        []
        if target in SUCCESSORS[state]
        else [f"entry {entry.sequence} moves the deal {entry.deal!r} from {state} to {target}"]
    )
