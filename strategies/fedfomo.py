"""FedFomo: personalised averaging by first-order model optimisation.

Zhang et al., *Personalized Federated Learning with First Order Model Optimization*, ICLR 2021.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fl_market.ledger import Deal
from fl_market.market.outcome import Acknowledgement, Delivery, Outcome
from fl_market.market.state import MarketState
from fl_market.merging.first_order import merge_first_order
from fl_market.parameters import StateDict, digest
from strategies.market import ParameterMarket


@dataclass(frozen=True)
class FreeExchange:
    """An exchange without deals: each agent of a round receives its merged model.

    Attributes
    ----------
    state
        The market after the round.
    merged
        Agent -> its merged model; empty without an exchange.
    agents
        Agents of the round.
    """

    state: MarketState
    merged: Mapping[str, StateDict]
    agents: Iterable[str]
    agreed: tuple[Deal, ...] = ()

    def deliver(self) -> dict[str, Delivery]:
        """Return the delivery to each agent of the round."""
        sent = {agent: Delivery(model, digest(model)) for agent, model in self.merged.items()}
        return {agent: sent.get(agent, Delivery()) for agent in self.agents}

    def conclude(self, acknowledgements: Mapping[str, Acknowledgement | None]) -> Outcome:
        """Return the round's outcome; an agent without an acknowledgement gets its model again."""
        return Outcome((), (), self.state)


class FedFomo(ParameterMarket):
    """Personalised averaging: each agent moves towards the models with a lower loss than its own.

    In the paper, agents download each other's models and validate them on their own data. Here the
    broker validates them, on all of its data and weighted by each agent's profile. The market
    decides on the same data.
    """

    _common: StateDict

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure as the market does, and remember the initial model of new agents."""
        self._common = arrays.to_torch_state_dict()
        return super().configure_train(server_round, arrays, config, grid)

    def exchange(self, market_round: int, models: Mapping[str, StateDict]) -> FreeExchange:
        """Merge each agent's model with those that improve its loss."""
        merged = {}
        if len(models) > 1:
            before = self.broker.state.models
            merged = {
                agent: merge_first_order(
                    before.get(agent, self._common), own, list(models.values()), self.broker.loss_of(agent)
                )
                for agent, own in models.items()
            }
        trained = self.broker.open_round(models, market_round, trades=False).state
        return FreeExchange(trained.with_models(merged).after(market_round), merged, sorted(models))
