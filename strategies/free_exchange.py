"""An exchange of models without deals, for arms that the market is compared with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fl_market.ledger import Deal
from fl_market.market.outcome import Acknowledgement, Delivery, Outcome, SealedDelivery
from fl_market.market.state import MarketState
from fl_market.parameters import StateDict, digest


@dataclass(frozen=True)
class FreeExchange:
    """An exchange without deals: agents of a round receive models in place of their own.

    Attributes
    ----------
    state
        The market after the round.
    merged
        Agent -> its new model; an agent that keeps its own is missing.
    agents
        Agents of the round.
    """

    state: MarketState
    merged: Mapping[str, StateDict]
    agents: Iterable[str]
    agreed: tuple[Deal, ...] = ()

    @classmethod
    def after(
        cls, state: MarketState, market_round: int, merged: Mapping[str, StateDict], agents: Iterable[str]
    ) -> "FreeExchange":
        """Return the exchange that ends a round with some agents' new models.

        Parameters
        ----------
        state
            The market with the agents' models after local training.
        market_round
            Number of the round.
        merged, agents
            As the attributes.
        """
        return cls(state.with_models(merged).after(market_round), merged, sorted(agents))

    def deliver(self) -> dict[str, SealedDelivery]:
        """Return no sealed purchase."""
        return {}

    def conclude(self, acknowledgements: Mapping[str, Acknowledgement | None]) -> Outcome:
        """Return the round's outcome."""
        sent = {agent: Delivery(model, digest(model)) for agent, model in self.merged.items()}
        deliveries = {agent: sent.get(agent, Delivery()) for agent in self.agents}
        return Outcome((), (), self.state, deliveries=deliveries)
