"""Baselines of the market: Flower's own FedAvg and its variants.

The averaging is ``flwr.serverapp.strategy.FedAvg`` itself. This module adds three things: replies
are sorted by agent (sums of floats depend on the order), failed replies are reported by the agent's
name, and each agent's test metrics are kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedProx, FedTrimmedAvg, Krum

from fl_market.configuration import Configuration
from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.gains import ModelLoss, Objective
from fl_market.market.fine_tuning import fine_tuned
from fl_market.parameters import StateDict, check_parameters
from strategies.exchange import name_in, names_at, replies_by_node, wait_for_nodes, warn
from strategies.history import History
from strategies.latecomers import Latecomers
from strategies.records import profile_in, tensors_in
from strategies.selection import FinalModel


class RecordedFedAvg(FedAvg):
    """Flower's FedAvg over all agents, from round 1, starting from one common initialisation.

    A training reply whose parameters do not fit the model, or are not finite, counts as failed and
    is left out of the average.

    Parameters
    ----------
    options
        Options of the run: number of agents, timeouts, and the rounds with tests.
    history
        Receives the agents' test metrics and failures.
    **flower
        Further arguments of Flower's strategy.

    Attributes
    ----------
    started
        Nodes whose agents have trained.
    final_models
        Agent -> its model after the last round, as far as the server knows it.
    """

    def __init__(self, options: Configuration, history: History, **flower: Any) -> None:
        agents = options.run.agents
        super().__init__(min_train_nodes=agents, min_evaluate_nodes=agents, min_available_nodes=agents, **flower)
        self.history, self.options = history, options
        self._grid: Grid | None = None
        self._template: StateDict = {}
        self._sent: Sequence[Message] = ()
        self._names: dict[int, str] = {}
        self._strangers: set[int] = set()
        self._trained: dict[int, str] = {}
        self._latecomers = Latecomers(options.joins, options.run.reply_timeout)
        self._own: dict[int, ArrayRecord] = {}
        self.started: set[int] = set()
        self.final_models: dict[str, FinalModel] = {}

    # -- hooks of subclasses ----------------------------------------------------------------------

    def training_messages(self, server_round: int, messages: Sequence[Message]) -> Iterable[Message]:
        """Return the training messages that replace FedAvg's."""
        return messages

    def evaluation_messages(self, server_round: int, messages: Iterable[Message]) -> Iterable[Message]:
        """Return the evaluation messages that replace FedAvg's."""
        return messages

    def combine(self, server_round: int, replies: Sequence[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the accepted training replies as Flower does."""
        return super().aggregate_train(server_round, replies)

    # -- Flower's steps ---------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Wait for the agents, with a timeout that Flower lacks, then configure as FedAvg does."""
        wait_for_nodes(grid, self.min_available_nodes, self.options.run.connect_timeout)
        self._grid = grid
        if not self._template:  # the initial model: Flower's averages have other dtypes
            self._template = arrays.to_torch_state_dict()
        messages = list(super().configure_train(server_round, arrays, config, grid))
        absent = self._latecomers.absent(grid, (message.metadata.dst_node_id for message in messages), server_round)
        own = self.training_messages(server_round, messages)
        self._sent = [message for message in own if message.metadata.dst_node_id not in absent]
        return self._sent

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Report failed replies, and combine the others in the order of the agents."""
        answers, failures = replies_by_node([message.metadata for message in self._sent], replies)
        for node, reply in answers.items():
            try:
                self._check(reply.content)
            except MarketError as error:
                failures[node] = str(error)
        accepted = self._sort_out(server_round, answers, failures)
        self._trained = {node: name_in(answers[node].content) for node in accepted}
        self.started |= set(accepted)
        if self._is_last(server_round):
            self._own = {node: next(iter(answers[node].content.array_records.values())) for node in accepted}
        return self.combine(server_round, [answers[node] for node in accepted])

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure as FedAvg does for the agents that trained, in rounds with tests."""
        self._sent = ()
        if self._is_last(server_round):
            config["register"] = True  # the agents' objectives, for the scores of the final models
        if self.evaluates_in(server_round):
            messages = super().configure_evaluate(server_round, arrays, config, grid)
            own = self.evaluation_messages(server_round, messages)
            self._sent = [message for message in own if message.metadata.dst_node_id in self._trained]
        return self._sent

    def evaluates_in(self, server_round: int) -> bool:
        """Return whether agents receive evaluation messages in a round."""
        return self.options.tests_in(server_round)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Report failed replies, keep each agent's metrics, and aggregate as FedAvg does."""
        answers, failures = replies_by_node([message.metadata for message in self._sent], replies)
        nodes = self._sort_out(server_round, answers, failures)
        accepted = [answers[node] for node in nodes]
        contents = {name_in(reply.content): reply.content for reply in accepted}
        finished = contents.keys() if self.evaluates_in(server_round) else self._trained.values()
        if self._is_last(server_round):
            self.final_models = self._final_models({node: answers[node].content for node in nodes})
        self.history.record(server_round, contents, finished)
        return super().aggregate_evaluate(server_round, accepted) if self.options.tests_in(server_round) else None

    # -- final models -----------------------------------------------------------------------------

    def _is_last(self, server_round: int) -> bool:
        return server_round == self.options.run.num_server_rounds

    def _final_models(self, replies: Mapping[int, RecordDict]) -> dict[str, FinalModel]:
        """Return the models that were tested: those returned, or sent, or trained last."""
        sent = {message.metadata.dst_node_id: message.content.array_records for message in self._sent}
        found = {}
        for node, content in replies.items():
            places = (content.array_records, sent[node], {"arrays": self._own[node]})
            record = next(records["arrays"] for records in places if "arrays" in records)
            try:
                found[name_in(content)] = FinalModel(tensors_in(record), profile_in(content))
            except MarketError as error:
                warn(self.options.run.num_server_rounds, f"agent {name_in(content)}", str(error))
        return found

    # -- failures ---------------------------------------------------------------------------------

    def _check(self, content: RecordDict) -> None:
        """Raise MarketError unless a training reply has finite parameters that fit the model."""
        if len(content.array_records) != 1:
            raise MarketError(f"its reply must have one set of parameters; got {len(content.array_records)}")
        (record,) = content.array_records.values()
        state = record.to_torch_state_dict()
        # output layers differ in shape between label spaces
        check_parameters(state, state if self.options.agent.labels else self._template)

    def _sort_out(self, server_round: int, answers: Mapping[int, Message], failures: Mapping[int, str]) -> list[int]:
        """Warn of failed replies by agent; return the other nodes in the order of the agents."""
        self._names |= {node: name for node, reply in answers.items() if (name := name_in(reply.content))}
        unknown = failures.keys() - self._names.keys() - self._strangers
        if unknown and self._grid is not None:
            self._names |= names_at(self._grid, unknown, server_round, self.options.run.reply_timeout)
            self._strangers |= unknown - self._names.keys()  # each node is asked once

        def in_order(nodes: Iterable[int]) -> list[int]:
            return sorted(nodes, key=lambda node: (self._names.get(node, ""), node))

        for node in in_order(failures):
            agent = self._names.get(node, node)
            warn(server_round, f"{'agent' if node in self._names else 'node'} {agent}", failures[node])
            self.history.fail(agent, failures[node])
        return in_order(answers.keys() - failures.keys())


class LateFedAvg(RecordedFedAvg):
    """The published FedAvg arm: agents train alone first, and are averaged from a later round on.

    Parameters
    ----------
    first_round
        First round whose models are averaged; None for never, which is siloed training.
    """

    def __init__(self, options: Configuration, history: History, first_round: int | None) -> None:
        super().__init__(options, history)
        self._first_round = first_round

    def _averages(self, server_round: int) -> bool:
        return self._first_round is not None and self.options.run.may_exchange(self._first_round, server_round)

    def training_messages(self, server_round: int, messages: Sequence[Message]) -> Iterable[Message]:
        """Send the average if there is one; until then, each agent continues with its own model."""
        return messages if self._averages(server_round - 1) else without_arrays(messages)

    def evaluation_messages(self, server_round: int, messages: Iterable[Message]) -> Iterable[Message]:
        """Evaluate the average if there is one, else each agent's own model."""
        return messages if self._averages(server_round) else without_arrays(messages)

    def combine(self, server_round: int, replies: Sequence[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the average from the first round of averaging on; None before."""
        return super().combine(server_round, replies) if self._averages(server_round) else (None, None)


class LocalFedAvg(RecordedFedAvg):
    """FedAvg with local fine-tuning: after the last round, each agent trains the average once more.

    The common practice for personalised models. It takes one round of local training, on the
    agent's own data, before the last test.
    """

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the agents in the last round to train the average, and to return the result."""
        config["fine-tune"] = config["return-model"] = self._is_last(server_round)
        return super().configure_evaluate(server_round, arrays, config, grid)


class TunedFedAvg(RecordedFedAvg):
    """FedAvg with a global model that the broker fine-tunes on the market's data and steps.

    This control is fair to FedAvg: it shows the part of a gain that comes from the broker's data
    alone. The tuned model replaces the average only if its gain is certified, as in the market.

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
        self._hardware = loss.hardware
        self._objective = Objective(loss, loss.hardware.place(*fit), loss.hardware.place(*certify))

    def combine(self, server_round: int, replies: Sequence[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average as FedAvg does, then fine-tune."""
        arrays, metrics = super().combine(server_round, replies)
        if arrays is None:
            return None, metrics
        average = arrays.to_torch_state_dict()
        tuned = fine_tuned(
            average,
            self._objective,
            steps=self.options.market.fit_steps,
            learning_rate=self.options.market.tuning_learning_rate,
            batch_size=self.options.market.fit_batch_size,
            hardware=self._hardware,
        )
        return (arrays if tuned is average else ArrayRecord(dict(tuned))), metrics


class RecordedFedProx(RecordedFedAvg, FedProx):
    """Flower's FedProx: FedAvg with agents that stay near the global model (Li et al. 2020)."""

    def __init__(self, options: Configuration, history: History) -> None:
        super().__init__(options, history, proximal_mu=options.training.proximal_mu)


class RecordedFedAdam(RecordedFedAvg, FedAdam):
    """Flower's FedAdam: the server takes Adam's steps towards the average (Reddi et al. 2021)."""

    def __init__(self, options: Configuration, history: History) -> None:
        super().__init__(options, history, eta=options.run.server_learning_rate)


class RecordedKrum(RecordedFedAvg, Krum):
    """Flower's Krum: the model nearest to most others (Blanchard 2017); one agent is malicious."""

    def __init__(self, options: Configuration, history: History) -> None:
        super().__init__(options, history, num_malicious_nodes=1)


class RecordedFedMedian(RecordedFedAvg, FedMedian):
    """Flower's FedMedian: the median of each parameter (Yin et al. 2018)."""


class RecordedFedTrimmedAvg(RecordedFedAvg, FedTrimmedAvg):
    """Flower's FedTrimmedAvg: the mean of each parameter without its extremes (Yin et al. 2018).

    Flower's default cuts a fifth of the values on each side, and none of fewer than five. With
    three or four agents, one on each side is cut here: as for Krum, one agent may be malicious.
    """

    def __init__(self, options: Configuration, history: History) -> None:
        agents = options.run.agents
        super().__init__(options, history, beta=1 / agents if 2 < agents < 5 else 0.2)


class FedALA(RecordedFedAvg):
    """FedALA (Zhang et al. 2023): each agent learns a weight of the average for each parameter."""

    def training_messages(self, server_round: int, messages: Sequence[Message]) -> Iterable[Message]:
        """Send each agent the parameters that it starts from, and no parameters later."""
        known = without_arrays(messages)
        return [
            own if own.metadata.dst_node_id in self.started else message
            for own, message in zip(known, messages, strict=True)
        ]

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the agents to adapt the average to their data; they continue with the result."""
        config["aggregation"] = "adaptive"
        config["return-model"] = self._is_last(server_round)
        return super().configure_evaluate(server_round, arrays, config, grid)

    def evaluates_in(self, server_round: int) -> bool:
        """Return True: agents receive the average after every round."""
        return True


class Pooled(LateFedAvg):
    """An upper bound: each agent trains alone, on the data of all agents."""

    def __init__(self, options: Configuration, history: History) -> None:
        super().__init__(options, history, None)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the agents to train on the data of all agents."""
        config["data"] = "pooled"
        return super().configure_train(server_round, arrays, config, grid)


class Ensemble(LateFedAvg):
    """An upper bound: agents train alone, and the mean of their probabilities is tested."""

    def __init__(self, options: Configuration, history: History) -> None:
        super().__init__(options, history, None)
        self._models: dict[str, ArrayRecord] = {}

    def combine(self, server_round: int, replies: Sequence[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Keep every agent's model."""
        for reply in replies:
            self._models[f"ensemble-{name_in(reply.content)}"] = reply.content.array_records["arrays"]
        return super().combine(server_round, replies)

    def evaluation_messages(self, server_round: int, messages: Iterable[Message]) -> Iterable[Message]:
        """Send all models to every agent, only for the test."""
        own = without_arrays(messages)
        for message in own:
            for name, model in self._models.items():
                message.content[name] = ArrayRecord(model.to_torch_state_dict())
        return own


def without_arrays(messages: Iterable[Message]) -> Sequence[Message]:
    """Return the messages without parameters.

    Each has a record of its own, because FedAvg's messages share one record.
    """
    return [
        Message(
            RecordDict(dict(message.content.config_records)),
            dst_node_id=message.metadata.dst_node_id,
            message_type=message.metadata.message_type,
            group_id=message.metadata.group_id,
        )
        for message in messages
    ]
