"""FedFomo: personalised averaging by first-order model optimisation.

Zhang et al., *Personalized Federated Learning with First Order Model Optimization*, ICLR 2021.
"""

from collections.abc import Mapping

from fl_market.merging.first_order import merge_first_order
from fl_market.parameters import StateDict
from strategies.free_exchange import FreeExchange
from strategies.market import ParameterMarket


class FedFomo(ParameterMarket):
    """Personalised averaging: each agent moves towards the models with a lower loss than its own.

    In the paper, agents download each other's models and validate them on their own data. Here the
    broker validates them, on all of its data and weighted by each agent's profile. The market
    decides on the same data.
    """

    def exchange(self, market_round: int, models: Mapping[str, StateDict]) -> FreeExchange:
        """Merge each agent's model with those that improve its loss."""
        merged = {}
        if len(models) > 1:
            before = self.broker.state.models
            merged = {
                agent: merge_first_order(
                    before.get(agent, self.common), own, list(models.values()), self.broker.loss_of(agent)
                )
                for agent, own in models.items()
            }
        trained = self.broker.open_round(models, market_round, trades=False).state
        return FreeExchange.after(trained, market_round, merged, models)
