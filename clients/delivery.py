"""Parameters on their way to an agent, and the receipts of its purchases and sales."""

from collections.abc import Sequence

from clients.agent import Agent
from fl_market.errors import MarketError
from fl_market.ledger import SignedHead
from fl_market.parameters import StateDict, digest
from fl_market.protocol import Receipt
from fl_market.sealing import unseal


def receive(agent: Agent, carried: StateDict | None, expected: str) -> None:
    """Take over the parameters that a message carries, or check that the agent holds those meant.

    The optimiser starts afresh if the parameters changed, and is kept if they did not. A broker
    that missed a reply may send back a noisy copy that the agent gave away: the agent then keeps
    its own, exact parameters. An agent without a model restores the memory that its disk holds
    beside the parameters that arrive.

    Parameters
    ----------
    agent
        The receiver.
    carried
        Parameters that the message carries; None for none.
    expected
        SHA-256 that the message announces; empty for none.

    Raises
    ------
    MarketError
        If the parameters are not those that the message announces.
    """
    state = agent.state
    if carried is None:
        if expected and state.model_digest != expected:
            raise MarketError("the agent no longer holds the model that the broker has on record")
        return
    sha = digest(carried)
    if expected and sha != expected:
        raise MarketError("the parameters that arrived differ from those sent: their SHA-256 differs")
    if not state.has_model:
        state.take_delivery(carried)
        if (disk := agent.disk) is not None:
            state.restore(disk)
    elif sha not in (*state.given_away, state.model_digest):
        state.take_delivery(carried)


def open_purchase(agent: Agent, key: bytes, expected: str) -> None:
    """Open the sealed purchase that the agent has acknowledged, and take it over.

    Parameters
    ----------
    agent
        The buyer. If it holds the model already, the key came twice.
    key
        The key.
    expected
        SHA-256 of the model.

    Raises
    ------
    MarketError
        If the agent holds no sealed purchase, the key does not open it, or it is another model.
    """
    state = agent.state
    if state.model_digest != expected:
        sealed = state.sealed
        if sealed is None:
            raise MarketError("the agent no longer holds the purchase that the key opens")
        receive(agent, unseal(sealed.to_torch_state_dict(), key), expected)
    state.sealed = None


def keep(agent: Agent, receipts: Sequence[Receipt], head: SignedHead | None, market_round: int) -> None:
    """Remember the outcome of a round, on the agent's disk too: an acknowledgement may follow.

    Parameters
    ----------
    agent
        The receiver.
    receipts
        Of its purchases and sales.
    head
        The ledger's signed head, which comes with receipts.
    market_round
        Number of the round.

    Raises
    ------
    MarketError
        If the disk cannot be written.
    """
    state = agent.state
    state.quotes = state.quotes.resolved(receipts)
    state.note_purchases(receipts)
    if (disk := agent.disk) is not None:
        disk.note(receipts, agent.run, head)
        state.save(disk, agent.run, market_round)
