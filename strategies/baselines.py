"""Flower's own FedAvg and its variants: what the market is compared with.

The averaging is ``flwr.serverapp.strategy.FedAvg`` itself. What is added: replies are put in the order of the agents
(sums of floats depend on it), and each agent's test metrics are kept.
"""

from collections.abc import Iterable, Sequence

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fl_market.gains import Batch, ModelLoss, certify
from fl_market.merging.fine_tuning import fine_tune
from fl_market.seeds import reproducible
from strategies.exchange import wait_for_nodes
from strategies.history import History, agent_of, in_agent_order


class RecordedFedAvg(FedAvg):
    """Flower's FedAvg over all agents, from round 1, starting from one common initialisation.

    Parameters
    ----------
    agents
        Number of agents that take part in every round.
    connect_timeout
        Seconds to wait for them to connect.
    history
        Where the agents' test metrics go.
    """

    def __init__(self, agents: int, connect_timeout: float, history: History) -> None:
        super().__init__(min_train_nodes=agents, min_evaluate_nodes=agents, min_available_nodes=agents)
        self.history = history
        self._connect_timeout = connect_timeout

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Wait for the agents, but not for ever as Flower does, then configure as FedAvg does."""
        wait_for_nodes(grid, self.min_available_nodes, self._connect_timeout)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate as FedAvg does, in the order of the agents."""
        return super().aggregate_train(server_round, in_agent_order(replies))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Keep each agent's metrics, and aggregate as FedAvg does."""
        ordered = in_agent_order(replies)
        self.history.record(server_round, {agent_of(reply): reply.content for reply in ordered if reply.has_content()})
        return super().aggregate_evaluate(server_round, ordered)


class LateFedAvg(RecordedFedAvg):
    """The published FedAvg arm: models of the agents' own, averaged only from a later round on.

    Parameters
    ----------
    first_round
        First round whose models are averaged; None for never, which is siloed training.
    """

    def __init__(self, agents: int, connect_timeout: float, history: History, first_round: int | None) -> None:
        super().__init__(agents, connect_timeout, history)
        self._first_round = first_round

    def _averages(self, server_round: int) -> bool:
        return self._first_round is not None and server_round >= self._first_round

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the average where there is one; before, every agent goes on with its own model."""
        messages = super().configure_train(server_round, arrays, config, grid)
        return messages if self._averages(server_round - 1) else without_arrays(messages)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the average from the first round of averaging on, nothing before."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        return (arrays if self._averages(server_round) else None), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluate the average where there is one, else each agent's own model."""
        messages = super().configure_evaluate(server_round, arrays, config, grid)
        return messages if self._averages(server_round) else without_arrays(messages)


class TunedFedAvg(RecordedFedAvg):
    """FedAvg whose global model the broker also fine-tunes: with the market's data and number of steps.

    The control that is fair to FedAvg: it shows how much of a gain is due to the broker's data alone. The tuned model
    replaces the average only where the gain is certified, as in the market.

    Parameters
    ----------
    loss
        The broker's loss.
    fit, certify
        The broker's splits.
    steps, learning_rate
        Adam's steps on all parameters, and their learning rate.
    confidence
        Level of the certificate.
    """

    def __init__(
        self,
        agents: int,
        connect_timeout: float,
        history: History,
        *,
        loss: ModelLoss,
        fit: Batch,
        certify: Batch,
        steps: int,
        learning_rate: float,
        confidence: float,
    ) -> None:
        super().__init__(agents, connect_timeout, history)
        self._loss, self._fit, self._certify = loss, fit, certify
        self._steps, self._learning_rate, self._confidence = steps, learning_rate, confidence

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average as FedAvg does, then fine-tune."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            return None, metrics
        average = arrays.to_torch_state_dict()
        with reproducible(0, "fedavg-tuned"):
            tuned = fine_tune(average, self._loss, self._fit, steps=self._steps, learning_rate=self._learning_rate)
            with torch.no_grad():
                before, after = (self._loss(state, self._certify) for state in (average, tuned))
        certificate = certify(before, after, confidence=self._confidence)
        return ArrayRecord(tuned if certificate.positive else average), metrics


def without_arrays(messages: Iterable[Message]) -> Sequence[Message]:
    """Return the messages without parameters; FedAvg shares one record among all, so each gets its own."""
    return [
        Message(
            RecordDict(dict(message.content.config_records)),
            dst_node_id=message.metadata.dst_node_id,
            message_type=message.metadata.message_type,
            group_id=message.metadata.group_id,
        )
        for message in messages
    ]
