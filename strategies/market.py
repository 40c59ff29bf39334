"""ParameterMarket: a Flower strategy in which a broker replaces FedAvg.

A round has at most five exchanges of messages (paper, section 3.1): training, private offers,
private quote requests, deliveries, and evaluation. A purchase is delivered sealed; once its buyer
has acknowledged it, the deal is booked, and the evaluation message brings the key. This module
decodes replies, advances the broker's round, and encodes messages; the round itself is
:mod:`fl_market.market.round`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from logging import INFO
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fl_market.broker import Broker
from fl_market.errors import MarketError
from fl_market.ledger import SignedHead, Signer
from fl_market.market import settlement
from fl_market.market.outcome import Acknowledgement, Delivery, Exchange, Notice, SealedDelivery
from fl_market.market.round import Bidding, TradingRound
from fl_market.parameters import StateDict
from fl_market.protocol import DELIVERY, OFFER, QUOTE, Ask, Bid
from fl_market.registry import Registry
from strategies.admission import Admission
from strategies.checkpoints import Checkpoint, Checkpoints
from strategies.exchange import NO_ANSWER, Outgoing, ask, collect, warn
from strategies.history import History
from strategies.latecomers import Latecomers
from strategies.queries import query, send
from strategies.records import acknowledgement_in, as_record, asks_in, bids_in, held_in, message_content, numbers_in
from strategies.recovery import Recovery
from strategies.seats import Seat, Seats
from strategies.selection import FinalModel

Answer = TypeVar("Answer")


class ParameterMarket(Strategy):
    """A market of model parameters among Flower's nodes.

    Parameters
    ----------
    broker
        Aligns, merges, certifies and prices.
    agents
        Number of agents to wait for before the first round.
    first_round, last_round
        First and last round in which agents may trade; 0 for no last one.
    joins
        Agent -> round in which it joins the market; agents that are missing join in round 1.
    common_init
        Ask agents without a model to start from the common initialisation.
    reply_timeout, connect_timeout
        Seconds to wait for the replies to a query, and for the agents to connect.
    history
        Receives the agents' test metrics.
    checkpoints
        Keeps the market after each round; None for no checkpoints.
    bind_accounts
        Tie each account to the node that opened it. Nodes must authenticate, because other nodes
        get a new id with each connection.
    registry
        The registered agents; None if any node may take part under any name.
    signer
        Signs the ledger's head, which goes with the receipts; by default with a key of its own.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        agents: int = 2,
        first_round: int = 5,
        last_round: int = 0,
        joins: Mapping[str, int] | None = None,
        common_init: bool = False,
        reply_timeout: float = 600.0,
        connect_timeout: float = 120.0,
        history: History | None = None,
        checkpoints: Checkpoints | None = None,
        bind_accounts: bool = False,
        registry: Registry | None = None,
        signer: Signer | None = None,
    ) -> None:
        self.broker = broker
        self.history = history or History("market", 0)
        self.seats = Seats()
        self.finished = 0
        self.unfinished = False
        self.common: StateDict = {}
        self._agents, self._common_init = agents, common_init
        self._first_round, self._last_round = first_round, last_round
        self._latecomers = Latecomers(joins or {}, reply_timeout)
        self._reply_timeout = reply_timeout
        self._admission = Admission(
            broker,
            self.seats,
            agents=agents,
            connect_timeout=connect_timeout,
            reply_timeout=reply_timeout,
            bind_accounts=bind_accounts,
            registry=registry,
        )
        self._recovery = Recovery(broker, self.history, checkpoints)
        self._signer = signer or Signer()
        self._grid: Grid | None = None
        self._last = 0
        self._sent = Outgoing()
        self._exchange: Exchange | None = None
        self._deliveries: Mapping[str, Delivery] = {}

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue after a checkpoint: Flower's first round is then the one after it.

        A round that was decided, but not delivered to the end, is finished by :meth:`start`.

        Raises
        ------
        MarketError
            If the checkpoint belongs to another ledger.
        """
        self.finished = self._recovery.resume(checkpoint)
        self._deliveries = checkpoint.outcome.deliveries
        self.unfinished = bool(self._deliveries)

    def start(self, grid: Grid, initial_arrays: ArrayRecord, num_rounds: int = 3, *args: Any, **options: Any) -> Result:
        """Finish a round that a crash cut short, then run the rounds as Flower does."""
        self._last = self.finished + num_rounds
        if self.unfinished:
            self._admission.nodes(grid, self.finished, resumable=True)
            self._grid, self._sent = grid, self._evaluations(self.finished, ConfigRecord())
            self._end(self.finished, grid.send_and_receive(self._sent, timeout=self._reply_timeout))
            self.unfinished = False
        return super().start(grid, initial_arrays, num_rounds, *args, **options)

    @property
    def final_models(self) -> dict[str, FinalModel]:
        """Agent -> its model after the last round: the delivered one, or the broker's record."""
        state = self.broker.state
        received = {agent: delivery.model for agent, delivery in self._deliveries.items()}
        return {
            agent: FinalModel(received.get(agent) or model, state.profiles.get(agent))
            for agent, model in state.models.items()
        }

    def summary(self) -> None:
        """Log the strategy's settings."""
        terms = self.broker.terms
        log(INFO, "\t├──> ParameterMarket: %d agents, trading from round %d", self._agents, self._first_round)
        log(
            INFO,
            "\t└──> alignment: %s, α per %s, rule: %s",
            terms.alignment,
            terms.granularity,
            terms.rule.name,
        )

    # -- 1. train ---------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every agent to train its own model; an agent that lost its copy gets the record."""
        server_round += self.finished
        self.common = arrays.to_torch_state_dict()
        self._grid = grid  # the queries of aggregate_train need it
        if server_round == 1:
            self._recovery.keep()  # a crash in the first round needs a checkpoint as well
        config["initialisation"] = "common" if self._common_init else "independent"
        nodes = self._admission.nodes(grid, server_round, resumable=self._recovery.possible)
        absent = self._latecomers.absent(grid, nodes, server_round)
        contents = {node: partial(self._training, node, server_round, config) for node in nodes if node not in absent}
        self._sent = Outgoing(contents, MessageType.TRAIN, server_round)
        return self._sent

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Collect the trained models, then offer, bargain and escrow; there is no global model."""
        server_round += self.finished
        contents, failures = collect(self._sent.sent, replies, self._trained)
        models: dict[str, StateDict] = {}
        for node, (content, model) in sorted(contents.items()):
            try:
                models[self._admission.take_in(node, content)] = model
            except MarketError as error:
                failures[node] = str(error)
        self._warn(server_round, failures)
        for seat in self.seats:
            if seat.node in failures:
                seat.forget(self.broker.state.models[seat.name])
        self._exchange = self.exchange(server_round, dict(sorted(models.items())))
        losses = numbers_in((contents[seat.node][0] for seat in self.seats if seat.name in models), "train-loss")
        if not losses:
            return None, None
        return None, MetricRecord(
            {"train-loss": sum(losses) / len(losses), "agents": len(losses), "deals": len(self._exchange.agreed)}
        )

    def _trained(self, content: RecordDict) -> tuple[RecordDict, StateDict]:
        """Put the model of a training reply where models stay; return the rest, and the model."""
        model = self.broker.keep(self._admission.model_in(content))
        models = content.array_records.keys() - {"validation"}
        return RecordDict({name: record for name, record in content.items() if name not in models}), model

    # -- 2. to 5. try before purchase, offers, quotes, bargaining ---------------------------------

    def trades_in(self, market_round: int) -> bool:
        """Return whether agents may trade in a round."""
        return self._first_round <= market_round and not 0 < self._last_round < market_round

    def may_buy(self, agent: str) -> bool:
        """Return whether an agent is told its offers."""
        return True

    def exchange(self, market_round: int, models: Mapping[str, StateDict]) -> Exchange:
        """Trade among the agents of a round.

        Parameters
        ----------
        market_round
            Number of the round.
        models
            Agent -> its parameters after local training, in the order of names.
        """
        trading = self.broker.open_round(
            models, market_round, trades=self.trades_in(market_round), last=market_round == self._last
        )
        self._report(market_round, trading.notices)
        self.history.offers += trading.evaluated
        bidding = trading.accept_bids(self._ask_buyers(trading))
        self._report(market_round, bidding.notices)
        bargain = bidding.accept_asks(self._ask_sellers(bidding))
        self._report(market_round, bargain.notices)
        return bargain

    def _ask_buyers(self, trading: TradingRound) -> dict[str, list[Bid]]:
        offers = {buyer: some for buyer, some in trading.offers.items() if self.may_buy(buyer)}
        return self._query(trading.number, OFFER, {"offers": offers}, bids_in)

    def _ask_sellers(self, bidding: Bidding) -> dict[str, list[Ask]]:
        requests = bidding.requests
        public = dict.fromkeys(requests, bidding.public_prices) if requests else {}
        return self._query(bidding.round.number, QUOTE, {"quotes": requests, "prices": public}, asks_in)

    def _query(
        self,
        market_round: int,
        message_type: str,
        items: Mapping[str, Mapping[str, Sequence[Any]]],
        decode: Callable[[RecordDict], Answer],
    ) -> dict[str, Answer]:
        if not any(items.values()):
            return {}
        assert self._grid is not None
        answers, failures = query(
            self._grid, self.seats, market_round, message_type, items, decode, self._reply_timeout
        )
        self._warn(market_round, failures)
        return answers

    # -- 6. deliver sealed purchases, settle, release the keys, evaluate --------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Deliver and settle the purchases, then send each agent its key, receipts and models.

        A checkpoint holds the decision before any money moves, and a key leaves the broker after
        the payment only. After a crash in between, the resumed run first delivers to all agents.
        """
        server_round += self.finished
        assert self._exchange is not None
        outcome = self._exchange.conclude(self._acknowledgements(server_round, self._exchange.deliver()))
        self._report(server_round, outcome.notices)
        self.broker.state = outcome.state
        self._deliveries = outcome.deliveries
        self.history.deals += len(outcome.settled)
        if self._exchange.agreed:
            self._recovery.keep(outcome)
            settlement.apply(self.broker.ledger, outcome)
        self._sent = self._evaluations(server_round, config)
        return self._sent

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Note who has its model and its receipts, and keep the round.

        A buyer that failed to open its purchase is sent the key again; one that does not answer
        gets the model that it has paid for with the next message.
        """
        losses = self._end(server_round + self.finished, replies)
        return MetricRecord({"test-loss": sum(losses) / len(losses), "agents": len(losses)}) if losses else None

    def _end(self, server_round: int, replies: Iterable[Message]) -> list[float]:
        """Keep the agents' answers to the deliveries, and return their test losses."""
        contents, failures = collect(self._sent.sent, replies, lambda content: content)
        again, failures = self._keys_again(failures)
        contents |= again
        self._warn(server_round, failures)
        named = {seat.name: contents[seat.node] for seat in self.seats if seat.node in contents}
        self.broker.state = self.broker.state.without_receipts(named)
        for seat in self.seats:
            if seat.name in self._deliveries:
                record = self.broker.state.models[seat.name]
                seat.conclude(self._deliveries[seat.name], held_in(named.get(seat.name)), record)
        self.history.keep(server_round, named)
        self._recovery.keep()
        self.history.report(server_round)
        return numbers_in(contents.values(), "test-loss")

    def _acknowledgements(
        self, market_round: int, deliveries: Mapping[str, SealedDelivery]
    ) -> dict[str, Acknowledgement]:
        contents = {buyer: partial(_sealed, delivery) for buyer, delivery in deliveries.items()}
        if not contents:
            return {}
        assert self._grid is not None
        answers, failures = send(
            self._grid, self.seats, market_round, DELIVERY, contents, acknowledgement_in, self._reply_timeout
        )
        self._warn(market_round, failures)
        return answers

    def _keys_again(self, failures: Mapping[int, str]) -> tuple[dict[int, RecordDict], dict[int, str]]:
        """Send the evaluation once more to buyers that answered with an error."""
        buyers = {seat.node for seat in self.seats if seat.name in self._deliveries and self._deliveries[seat.name].key}
        failed = {node for node, reason in failures.items() if node in buyers and reason != NO_ANSWER}
        if not failed:
            return {}, dict(failures)
        assert self._grid is not None
        answers, still = ask(self._grid, self._sent.to(failed), self._reply_timeout, lambda content: content)
        return answers, {**{node: reason for node, reason in failures.items() if node not in failed}, **still}

    # -- messages ---------------------------------------------------------------------------------

    def _training(self, node: int, server_round: int, config: ConfigRecord) -> RecordDict:
        seat = self.seats.at(node)
        if seat is None:
            return message_content(config, server_round)
        same = seat.agent_digest == seat.model_digest
        record = None if same else self.broker.state.models[seat.name]
        return message_content(config, server_round, digest=seat.model_digest, model=record)

    def _evaluations(self, server_round: int, config: ConfigRecord) -> Outgoing:
        head = None
        if any(delivery.receipts for delivery in self._deliveries.values()):
            head = self._signer.sign(self.broker.ledger.head())
        contents = {
            seat.node: partial(self._evaluation, seat, self._deliveries[seat.name], server_round, config, head)
            for seat in self.seats
            if seat.name in self._deliveries
        }
        return Outgoing(contents, MessageType.EVALUATE, server_round)

    def _evaluation(
        self, seat: Seat, delivery: Delivery, server_round: int, config: ConfigRecord, head: SignedHead | None
    ) -> RecordDict:
        wanted = delivery.digest or seat.model_digest
        known = delivery.key or seat.agent_digest == wanted
        model = None if known else delivery.model or self.broker.state.models[seat.name]
        content = message_content(config, server_round, digest=wanted, model=model)
        if delivery.key:
            content["key"] = ConfigRecord({"key": delivery.key})
        if delivery.receipts and head is not None:
            content["receipts"] = as_record(delivery.receipts)
            content["head"] = ConfigRecord(asdict(head))
        return content

    def _warn(self, market_round: int, failures: Mapping[int, str]) -> None:
        """Warn of nodes without a valid reply, and count the failures of their agents."""
        for node, reason in failures.items():
            seat = self.seats.at(node)
            warn(market_round, self._admission.who(node), reason)
            self.history.fail(node if seat is None else seat.name, reason)

    def _report(self, market_round: int, notices: Iterable[Notice]) -> None:
        """Log notices under pseudonyms; ``state.json`` of a checkpoint maps them to agents."""
        for notice in notices:
            warn(market_round, self.broker.state.pseudonyms[notice.agent], notice.text)


def _sealed(delivery: SealedDelivery) -> RecordDict:
    """Return the records of a delivery."""
    return RecordDict(
        {
            "delivery": ConfigRecord({"model-digest": delivery.digest}),
            "sealed": ArrayRecord(dict(delivery.sealed)),
        }
    )
