"""Flower's own FedAvg and its variants: what the market is compared with.

The averaging is ``flwr.serverapp.strategy.FedAvg`` itself. What is added: replies are put in the order of the agents
(sums of floats depend on it), and each agent's test metrics are kept.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx

from fl_market.configuration import Configuration
from fl_market.data import Batch
from fl_market.gains import ModelLoss, certify
from fl_market.merging.fine_tuning import fine_tune
from fl_market.seeds import reproducible
from strategies.exchange import wait_for_nodes
from strategies.history import History, agent_of, in_agent_order


class RecordedFedAvg(FedAvg):
    """Flower's FedAvg over all agents, from round 1, starting from one common initialisation.

    Parameters
    ----------
    options
        Of the run: how many agents take part, how long to wait for them, and in which rounds they test their models.
    history
        Where the agents' test metrics go.
    **flower
        What Flower's strategy takes besides.
    """

    def __init__(self, options: Configuration, history: History, **flower: Any) -> None:
        agents = options.agents
        super().__init__(min_train_nodes=agents, min_evaluate_nodes=agents, min_available_nodes=agents, **flower)
        self.history, self.options = history, options

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Wait for the agents, but not for ever as Flower does, then configure as FedAvg does."""
        wait_for_nodes(grid, self.min_available_nodes, self.options.connect_timeout)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate as FedAvg does, in the order of the agents."""
        return super().aggregate_train(server_round, in_agent_order(replies))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure as FedAvg does, in the rounds after which models are tested."""
        if not self.options.tests_in(server_round):
            return []
        return super().configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Keep each agent's metrics, and aggregate as FedAvg does."""
        ordered = in_agent_order(replies)
        self.history.record(server_round, {agent_of(reply): reply.content for reply in ordered if reply.has_content()})
        return super().aggregate_evaluate(server_round, ordered) if self.options.tests_in(server_round) else None


class LateFedAvg(RecordedFedAvg):
    """The published FedAvg arm: models of the agents' own, averaged only from a later round on.

    Parameters
    ----------
    first_round
        First round whose models are averaged; None for never, which is siloed training.
    """

    def __init__(self, options: Configuration, history: History, first_round: int | None) -> None:
        super().__init__(options, history)
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
        if not self._averages(server_round):
            self._check_and_log_replies(replies, is_train=True, validate=False)
            return None, None
        return super().aggregate_train(server_round, replies)

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
    options, history
        As for FedAvg.
    loss
        The broker's loss.
    fit, certify
        The broker's splits.
    """

    def __init__(
        self, options: Configuration, history: History, *, loss: ModelLoss, fit: Batch, certify: Batch
    ) -> None:
        super().__init__(options, history)
        self._loss = loss
        self._fit, self._certify = (loss.hardware.place(*split) for split in (fit, certify))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average as FedAvg does, then fine-tune."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            return None, metrics
        options = self.options
        received = arrays.to_torch_state_dict()
        average = dict(zip(received, self._loss.hardware.place(*received.values()), strict=True))
        with reproducible(0, "fedavg-tuned"):
            tuned = fine_tune(
                average, self._loss, self._fit, steps=options.fit_steps, learning_rate=options.tuning_learning_rate
            )
            with torch.no_grad():
                before, after = (self._loss(state, self._certify) for state in (average, tuned))
        if not certify(before, after, confidence=options.confidence).positive:
            return arrays, metrics
        return ArrayRecord({name: tensor.cpu() for name, tensor in tuned.items()}), metrics


class RecordedFedProx(RecordedFedAvg, FedProx):
    """Flower's FedProx: FedAvg whose agents stay near the global model (Li et al. 2020)."""

    def __init__(self, options: Configuration, history: History) -> None:
        super().__init__(options, history, proximal_mu=options.proximal_mu)


class RecordedFedAdam(RecordedFedAvg, FedAdam):
    """Flower's FedAdam: the server takes Adam's steps towards the average (Reddi et al. 2021)."""

    def __init__(self, options: Configuration, history: History) -> None:
        super().__init__(options, history, eta=options.server_learning_rate)


class FedALA(RecordedFedAvg):
    """FedALA (Zhang et al. 2023): FedAvg of which each agent takes as much as it learns to."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the common initialisation in the first round; later every agent goes on with its own model."""
        messages = super().configure_train(server_round, arrays, config, grid)
        return messages if server_round == 1 else without_arrays(messages)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the average after every round: what the agents make of it is what they go on with."""
        config["aggregation"] = "adaptive"
        return FedAvg.configure_evaluate(self, server_round, arrays, config, grid)


class Pooled(LateFedAvg):
    """A ceiling: each agent trains alone, but on the data of all."""

    def __init__(self, options: Configuration, history: History) -> None:
        super().__init__(options, history, None)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Tell the agents to train on everybody's data."""
        config["data"] = "pooled"
        return super().configure_train(server_round, arrays, config, grid)


class Ensemble(LateFedAvg):
    """A ceiling: agents train alone, and are tested together, by the mean of their probabilities."""

    def __init__(self, options: Configuration, history: History) -> None:
        super().__init__(options, history, None)
        self._models: dict[str, ArrayRecord] = {}

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Keep every agent's model."""
        ordered = in_agent_order(replies)
        for reply in ordered:
            if reply.has_content():
                self._models[f"ensemble-{agent_of(reply)}"] = reply.content.array_records["arrays"]
        return super().aggregate_train(server_round, ordered)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send all models to every agent, for the test alone."""
        messages = list(super().configure_evaluate(server_round, arrays, config, grid))
        for message in messages:
            for name, model in self._models.items():
                message.content[name] = ArrayRecord(model.to_torch_state_dict())
        return messages


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
