"""FedFomo (Zhang et al., *Personalized Federated Learning with First Order Model Optimization*, ICLR 2021)."""

from collections.abc import Iterable, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fl_market.merging.first_order import merge_first_order
from fl_market.parameters import StateDict
from strategies.market import ParameterMarket


class FedFomo(ParameterMarket):
    """A market without prices: each agent moves towards the models that do better than its own did.

    In the paper agents download each other's models and validate them on data of their own. Here the broker does so for
    them, on all of its data, weighted by each agent's profile: the very data that the market decides on.
    """

    _started_from: Mapping[int, StateDict]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure as the market does, and remember from which models the agents start."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        common = arrays.to_torch_state_dict()
        self._started_from = {
            node: self._seats[node].model if node in self._seats else common
            for node in (message.metadata.dst_node_id for message in messages)
        }
        return messages

    def _trade(self, server_round: int) -> None:
        models = [seat.model for seat in self._present]
        merged = [
            merge_first_order(self._started_from[seat.node], seat.model, models, self.broker.loss_of(seat.name))
            for seat in self._present
        ]
        for seat, model in zip(self._present, merged, strict=True):
            seat.keep(model)
