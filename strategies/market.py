"""ParameterMarket: a Flower strategy in which a broker replaces FedAvg.

One round is four exchanges (paper, section 3.1): training, private offers, private quote requests, and the evaluation
message that delivers what was bought and brings back the acknowledgement on which the escrow is released.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from logging import INFO

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fl_market.broker import Broker, Trial
from fl_market.errors import MarketError
from fl_market.gains import Profile
from fl_market.ledger import Deal
from fl_market.naming import Pseudonyms
from fl_market.parameters import StateDict, check_parameters, digest
from fl_market.protocol import (
    DEBT,
    IDENTIFY,
    OFFER,
    QUOTE,
    Ask,
    Bid,
    Debt,
    DisclosedQuote,
    Item,
    Offer,
    PublicPrice,
    QuoteRequest,
    Receipt,
    from_columns,
    to_columns,
)
from strategies.checkpoints import Checkpoint, Checkpoints
from strategies.exchange import ask, build_messages, collect, wait_for_nodes, warn
from strategies.history import History, number_in

PUBLIC_PRICES = 100
"""Past prices that sellers are told."""


@dataclass
class _Seat:
    """What the broker holds of one agent.

    ``model`` is the broker's record, ``model_digest`` the SHA-256 of what the agent is to hold, and ``agent_digest``
    that of what it is known to hold: parameters travel only where the two differ. They are those of the record, unless
    the agent gives the broker a noisy copy only and keeps its own.
    """

    name: str
    node: int
    model: StateDict
    model_digest: str
    agent_digest: str

    def keep(self, model: StateDict) -> None:
        """Take down what the agent's model is from now on; it may not hold it yet."""
        self.model, self.model_digest = model, digest(model)

    def forget(self) -> None:
        """Give up what was known of the agent's own copy: it will be sent the record."""
        self.model_digest, self.agent_digest = digest(self.model), ""


class ParameterMarket(Strategy):
    """A market of model parameters among Flower's nodes.

    Parameters
    ----------
    broker
        Aligns, merges, certifies, prices and settles.
    agents
        Number of agents to wait for before the first round.
    first_round
        First round in which trades are tried.
    common_init
        Ask agents without a model to start from the initialisation that is common to all.
    reply_timeout, connect_timeout
        Seconds to wait for the replies to a query, and for the agents to connect.
    history
        Where the agents' test metrics go.
    checkpoints
        Where the market is kept after each round; None for nowhere.
    bind_accounts
        Let an account belong to the node that opened it. Nodes must authenticate: the id of any other changes whenever
        it connects.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        agents: int = 2,
        first_round: int = 5,
        common_init: bool = False,
        reply_timeout: float = 600.0,
        connect_timeout: float = 120.0,
        history: History | None = None,
        checkpoints: Checkpoints | None = None,
        bind_accounts: bool = False,
    ) -> None:
        self.broker = broker
        self.history = history or History("market", 0)
        self._agents, self._first_round, self._common_init = agents, first_round, common_init
        self._reply_timeout, self._connect_timeout = reply_timeout, connect_timeout
        self._seats: dict[int, _Seat] = {}
        self.pseudonyms = Pseudonyms()
        self._grid: Grid | None = None
        self._sent: list[Message] = []
        self._present: list[_Seat] = []
        self._deals: dict[str, list[tuple[Deal, Trial]]] = {}
        self._checkpoints, self._bind_accounts = checkpoints, bind_accounts
        self._awaited: dict[str, StateDict] = {}
        self.finished = 0

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on after a checkpoint: Flower's first round is then the one after it (Flower itself does not resume).

        What the checkpoint had decided on its round's deals is done, and those of a round that was lost are ended.

        Raises
        ------
        MarketError
            If the ledger is another one.
        """
        if not self.broker.ledger.holds(checkpoint.ledger):
            raise MarketError(
                f"the checkpoint of round {checkpoint.round} belongs to another ledger: "
                f"this one lacks its entry {checkpoint.ledger[0]}"
            )
        self.finished = checkpoint.round
        self.history.restore(checkpoint.history)
        self.broker.restore(checkpoint.memory)
        self._awaited = dict(checkpoint.models)
        self.pseudonyms.known |= checkpoint.pseudonyms
        for deal in checkpoint.settled:
            self.broker.ledger.settle(deal)
        for deal in checkpoint.refunded:
            self.broker.ledger.refund(deal)
        self.broker.abandon_open_deals()
        # by name, before money moves: the run that comes after this one must know its deals for the market's own
        self._keep(checkpoint.round, [], [])

    def summary(self) -> None:
        """Log the strategy's settings."""
        terms = self.broker.terms
        log(INFO, "\t├──> ParameterMarket: %d agents, trading from round %d", self._agents, self._first_round)
        log(INFO, "\t└──> alignment: %s, α per %s, rule: %s", terms.alignment, terms.granularity, terms.rule.name)

    # -- 1. train ---------------------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every agent to train its own model; only one that lost its copy is sent the broker's record."""
        server_round += self.finished
        self._grid = grid  # aggregate_train is given none, and the queries need it
        contents = {}
        if server_round == 1:
            self._keep(0, [], [])  # so that a crash in the first round is no special case
        config["initialisation"] = "common" if self._common_init else "independent"
        nodes = self._wait_for_nodes(grid, server_round)
        silent = self._seat_awaited(server_round, [node for node in nodes if node not in self._seats])
        for node in (node for node in nodes if node not in silent):
            contents[node] = _content_for(self._seats.get(node), server_round, config)
        self._sent = build_messages(contents, MessageType.TRAIN, server_round)
        return self._sent

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take in the trained models, then offer, bargain and escrow; there is no global model to return."""
        server_round += self.finished
        contents, failures = collect(self._sent, replies)
        self._present = []
        for node, content in sorted(contents.items()):
            try:
                seat = self._take_in(node, content)
            except MarketError as error:
                failures[node] = str(error)
                continue
            self._present.append(seat)
        for node, reason in failures.items():
            warn(server_round, self._who(node), reason)
            if node in self._seats:
                self._seats[node].forget()
        self._present.sort(key=lambda seat: seat.name)
        self._deals = {}
        if server_round >= self._first_round and len(self._present) > 1:
            self._trade(server_round)
        losses = _numbers({seat.node: contents[seat.node] for seat in self._present}, "train-loss")
        if not losses:
            return None, None
        return None, MetricRecord(
            {"train-loss": sum(losses) / len(losses), "agents": len(losses), "deals": len(self._agreed())}
        )

    def _wait_for_nodes(self, grid: Grid, server_round: int) -> list[int]:
        """Wait for all agents before the first round, or the first after a resume, and for any of them later."""
        known = sorted({*(seat.name for seat in self._seats.values()), *self._awaited})
        wanted = 1 if self._seats else self._agents
        try:
            return wait_for_nodes(grid, wanted, self._connect_timeout, least=1 if known else wanted, awaited=known)
        except MarketError as error:
            if self._checkpoints is None or server_round == 1:
                raise
            raise MarketError(
                f"{error}; what was done up to round {server_round - 1} is kept: resume the run"
            ) from None

    def _seat_awaited(self, server_round: int, nodes: list[int]) -> set[int]:
        """Give agents that the checkpoint knows their seats again, at whatever nodes they are now.

        Return the nodes that did not say who they are: trained anew, an agent would lose the model that it had.
        """
        assert self._grid is not None
        if not self._awaited or not nodes:
            return set()
        config = {"config": ConfigRecord({"server-round": server_round})}
        answers, failures = ask(
            self._grid, {node: RecordDict(dict(config)) for node in nodes}, IDENTIFY, server_round, self._reply_timeout
        )
        for node, reason in failures.items():
            warn(server_round, self._who(node), reason)
        for node, answer in sorted(answers.items()):
            name = _text(answer, "agent", "name", default="")
            if name in self._awaited:
                try:
                    self.broker.seat(name, self._owner(node))
                except MarketError as error:
                    failures[node] = str(error)
                    warn(server_round, self._who(node), failures[node])
                    continue
                model = self._awaited.pop(name)
                self._seats[node] = _Seat(name, node, model, digest(model), "")
        return set(failures)

    def _take_in(self, node: int, content: RecordDict) -> _Seat:
        """Seat the agent that replied, with the model that it trained.

        Raises
        ------
        MarketError
            If the reply is not one of an agent, or its model could not be loaded.
        """
        name = _text(content, "agent", "name")
        seated = next((seat for seat in self._seats.values() if seat.name == name), None)
        if seated is not None and seated.node != node:
            raise MarketError(f"it claims to be agent {name}, who sits at another node")
        known = self._seats.get(node)
        if known is not None and known.name != name:
            raise MarketError(f"agent {known.name} now claims to be agent {name}")
        profile = _profile(content) if known is None else None
        model = _parameters(content)
        check_parameters(model, self.broker.template(name, profile))
        held = _text(content, "acknowledgement", "model-digest")
        if known is None:
            self.broker.seat(name, self._owner(node))  # before anything that a stranger says of the agent is kept
            if profile is not None:
                self.broker.register(name, profile)
            known = self._seats[node] = _Seat(name, node, model, held, held)
        known.model, known.model_digest, known.agent_digest = model, held, held
        return known

    # -- 2. to 5. try before purchase, offers, quotes, bargaining -----------------------------------------------------

    def _trade(self, server_round: int) -> None:
        trials = self.broker.try_before_purchase({seat.name: seat.model for seat in self._present})
        for name in sorted(self.broker.resellers):
            warn(server_round, self._named(name), "its parameters are what was delivered: it has nothing to sell")
        for trial in trials:
            if trial.certificate.harmed and trial.certificate.lower_bound > 0:
                classes = ", ".join(map(str, trial.certificate.harmed))
                warn(server_round, self._named(trial.seller), f"what it sells would harm a buyer in class {classes}")
        self.history.offers += sum(not trial.after for trial in trials)
        self._collect_debts(server_round)
        offered = [trial for trial in trials if trial.certificate.positive and self.broker.may_buy(trial.buyer)]
        wanted = self._collect_bids(server_round, offered)
        bids = {pair: amount for pair, (_, amount) in wanted.items()}
        bought = {pair: trial for pair, (trial, _) in wanted.items()}
        asks = self._collect_asks(server_round, bought, trials) if self.broker.terms.rule.asks else {}
        self._deals = self.broker.bargain(server_round, trials, bids, asks)
        for seat in self._present:
            if seat.name in self._deals:
                seat.keep(self._deals[seat.name][-1][1].merged)

    def _collect_debts(self, server_round: int) -> None:
        """Ask buyers that lost the right to buy whether they pay for what they did not acknowledge."""
        owing = {
            seat.name: self.broker.unpaid(seat.name) for seat in self._present if not self.broker.may_buy(seat.name)
        }
        contents = {
            buyer: [Debt(self._deal_id(deal, deal.seller), deal.price) for deal in deals]
            for buyer, deals in owing.items()
        }
        answers = self._query(server_round, DEBT, "debts", contents)
        for buyer in owing:
            records = answers[buyer].config_records if buyer in answers else {}
            agreed = "payment" in records and records["payment"].get("agreed") is True
            if not (agreed and self.broker.pay_late(buyer)):
                warn(server_round, self._named(buyer), "it may not buy until it pays for what it did not acknowledge")

    def _collect_bids(self, server_round: int, offered: list[Trial]) -> dict[tuple[str, str], tuple[Trial, int]]:
        """Send each buyer its offers, privately, and return the bids: on one of them, and what comes on top of it.

        (buyer, seller) -> what the buyer bids on, and how much in micro-credits.
        """
        mine: dict[str, dict[str, Trial]] = {}
        for trial in offered:
            mine.setdefault(trial.buyer, {})[self._offer_id(server_round, (*trial.after, trial.seller))] = trial
        contents = {
            buyer: [
                Offer(
                    key,
                    self.pseudonyms.of(trial.seller),
                    trial.layers,
                    trial.alpha,
                    trial.certificate.gain,
                    trial.certificate.lower_bound,
                    self._offer_id(server_round, trial.after) if trial.after else "",
                )
                for key, trial in trials.items()
            ]
            for buyer, trials in mine.items()
        }
        bids: dict[tuple[str, str], tuple[Trial, int]] = {}
        for buyer, answer in self._query(server_round, OFFER, "offers", contents).items():
            try:
                answers = from_columns(Bid, answer.config_records.get("bids", {}))
                for bid in answers:
                    if bid.offer not in mine[buyer]:
                        raise MarketError(f"it bids on the offer {bid.offer!r}, which is not one of its own")
                    self.broker.check_amount(bid.amount)
                chosen = [mine[buyer][bid.offer] for bid in answers]
                if any(
                    trial.after != tuple(before.seller for before in chosen[:place])
                    for place, trial in enumerate(chosen)
                ):
                    raise MarketError("it bids on more than one offer and what comes on top of it")
                bids |= {(buyer, trial.seller): (trial, bid.amount) for trial, bid in zip(chosen, answers, strict=True)}
            except MarketError as error:
                warn(server_round, self._named(buyer), str(error))
        return bids

    def _collect_asks(
        self, server_round: int, bought: dict[tuple[str, str], Trial], trials: list[Trial]
    ) -> dict[tuple[str, str], int]:
        """Send each seller the quote requests for its parameters, privately, and return the asks.

        ``bought`` holds what is bid on; what a seller itself would gain is that of its own single purchase.
        """
        single = {(trial.buyer, trial.seller): trial for trial in trials if not trial.after}
        sealed = self.broker.terms.disclosure == "sealed"
        wanted: dict[str, dict[str, str]] = {}
        for buyer, seller in sorted(bought):
            wanted.setdefault(seller, {})[f"{server_round}/{self.pseudonyms.of(buyer)}"] = buyer
        contents: dict[str, list[QuoteRequest]] = {
            seller: [
                QuoteRequest(key, bought[buyer, seller].layers)
                if sealed
                else _disclosed(key, bought[buyer, seller], single[seller, buyer])
                for key, buyer in quotes.items()
            ]
            for seller, quotes in wanted.items()
        }
        asks = {}
        public = {"prices": ConfigRecord(to_columns(self._public_prices()))}
        for seller, answer in self._query(server_round, QUOTE, "quotes", contents, public).items():
            try:
                for answered in from_columns(Ask, answer.config_records.get("asks", {})):
                    if answered.quote not in wanted[seller]:
                        raise MarketError(f"it answers the quote request {answered.quote!r}, which it was not sent")
                    asks[wanted[seller][answered.quote], seller] = self.broker.check_amount(answered.amount)
            except MarketError as error:
                warn(server_round, self._named(seller), str(error))
        return asks

    def _public_prices(self) -> list[PublicPrice]:
        paid = [deal for deal, state in self.broker.trades if state.paid]
        return [PublicPrice(deal.price) for deal in paid[-PUBLIC_PRICES:]]

    def _query(
        self,
        server_round: int,
        message_type: str,
        key: str,
        items: dict[str, list[Item]],
        public: Mapping[str, ConfigRecord] | None = None,
    ) -> dict[str, RecordDict]:
        """Send items to agents by name, with what is public, and return the replies by name."""
        assert self._grid is not None
        nodes = {seat.name: seat.node for seat in self._present}
        contents = {
            nodes[name]: RecordDict(
                {
                    "config": ConfigRecord({"server-round": server_round}),
                    key: ConfigRecord(to_columns(some)),
                    **{name: ConfigRecord(dict(record)) for name, record in (public or {}).items()},
                }
            )
            for name, some in sorted(items.items())
        }
        answers, failures = ask(self._grid, contents, message_type, server_round, self._reply_timeout)
        for node, reason in failures.items():
            warn(server_round, self._who(node), reason)
        return {self._seats[node].name: answer for node, answer in sorted(answers.items())}

    # -- 6. evaluate: delivery, acknowledgement, settlement -----------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Deliver to each agent what it bought, with its receipts."""
        server_round += self.finished
        receipts = self._receipts()
        contents = {}
        for seat in self._present:
            content = _content_for(seat, server_round, config)
            if seat.name in receipts:
                content["receipts"] = ConfigRecord(to_columns(receipts[seat.name]))
            contents[seat.node] = content
        for deal, _ in self._agreed():
            self.broker.ledger.deliver(deal.id)
        self._sent = build_messages(contents, MessageType.EVALUATE, server_round)
        return self._sent

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Release the escrow of each purchase that its buyer acknowledged, and refund the others.

        What is decided is in the checkpoint before any money moves: a crash in between changes nothing.
        """
        server_round += self.finished
        contents, failures = collect(self._sent, replies)
        for node, reason in failures.items():
            warn(server_round, self._who(node), reason)
        settled: list[str] = []
        refunded: list[str] = []
        for seat in self._present:
            content = contents.get(seat.node)
            held = "" if content is None else _text(content, "acknowledgement", "model-digest", default="")
            if held:
                seat.agent_digest = held
            else:
                seat.forget()
            if seat.name in self._deals:
                (settled if self._accepted(server_round, seat) else refunded).extend(
                    deal.id for deal, _ in self._deals[seat.name]
                )
        self.history.keep(server_round, {self._seats[node].name: content for node, content in contents.items()})
        self._keep(server_round, settled, refunded)
        for deal in settled:
            self.broker.ledger.settle(deal)
        for deal in refunded:
            self.broker.ledger.refund(deal)
        self.history.report(server_round)
        losses = _numbers(contents, "test-loss")
        return MetricRecord({"test-loss": sum(losses) / len(losses), "agents": len(losses)}) if losses else None

    def _accepted(self, server_round: int, seat: _Seat) -> bool:
        """Return whether a buyer acknowledged what was delivered; one that did not keeps its own model."""
        deals = self._deals[seat.name]
        if seat.agent_digest == seat.model_digest:
            self.broker.record_delivery(seat.name, deals[-1][1].merged)
            self.history.deals += len(deals)
            return True
        seat.keep(deals[0][1].before)
        self.broker.record_silence(seat.name, [deal for deal, _ in deals], deals[-1][1].merged)
        warn(server_round, self._named(seat.name), "it did not acknowledge its purchase, which is refunded")
        return False

    def _keep(self, server_round: int, settled: list[str], refunded: list[str]) -> None:
        if self._checkpoints is None:
            return
        models = self._awaited | {seat.name: seat.model for seat in self._seats.values()}
        position, pseudonyms = self.broker.ledger.position(), dict(self.pseudonyms.known)
        self._checkpoints.write(
            Checkpoint(
                server_round,
                models,
                self.broker.memory,
                settled,
                refunded,
                self.history.as_json(),
                position,
                pseudonyms,
            )
        )

    def _agreed(self) -> list[tuple[Deal, Trial]]:
        return [agreed for deals in self._deals.values() for agreed in deals]

    def _receipts(self) -> dict[str, list[Receipt]]:
        receipts: dict[str, list[Receipt]] = {}
        for deal, _ in self._agreed():
            for side, agent, partner in (("bought", deal.buyer, deal.seller), ("sold", deal.seller, deal.buyer)):
                receipt = Receipt(self._deal_id(deal, partner), side, self.pseudonyms.of(partner), deal.price)
                receipts.setdefault(agent, []).append(receipt)
        return receipts

    # -- shared -----------------------------------------------------------------------------------------------------

    def _offer_id(self, server_round: int, sellers: tuple[str, ...]) -> str:
        return f"{server_round}/{'+'.join(map(self.pseudonyms.of, sellers))}"

    def _deal_id(self, deal: Deal, partner: str) -> str:
        """Return the id by which one side of a deal knows it."""
        return f"{deal.round}/{self.pseudonyms.of(partner)}"

    def _owner(self, node: int) -> str:
        return str(node) if self._bind_accounts else ""

    def _who(self, node: int) -> str:
        return self._named(self._seats[node].name) if node in self._seats else f"node {node}"

    def _named(self, agent: str) -> str:
        """Return what the log calls an agent: a checkpoint's ``state.json`` tells the operator who it is."""
        return self.pseudonyms.of(agent)


def _disclosed(key: str, bought: Trial, own: Trial) -> DisclosedQuote:
    """Return what the policies ``paper`` and ``sharp`` tell a seller: of the buyer, the purchased weight alone."""
    return DisclosedQuote(key, bought.layers, own.alpha, bought.alpha, own.certificate.ratio)


def _content_for(seat: _Seat | None, server_round: int, config: ConfigRecord) -> RecordDict:
    """Return a message's content for one agent, with its model where its own copy is not known to be the same."""
    own_config = ConfigRecord({**config, "server-round": server_round})
    if seat is None:
        own_config["register"] = True
        return RecordDict({"config": own_config})
    own_config["model-digest"] = seat.model_digest
    if seat.agent_digest == seat.model_digest:
        return RecordDict({"config": own_config})
    return RecordDict({"config": own_config, "arrays": ArrayRecord(dict(seat.model))})


def _parameters(content: RecordDict) -> StateDict:
    records = [record for name, record in content.array_records.items() if name != "validation"]
    if len(records) != 1:
        raise MarketError(f"its reply has {len(records)} sets of parameters; exactly one is accepted")
    return _tensors(records[0])


def _tensors(record: ArrayRecord) -> StateDict:
    try:
        return record.to_torch_state_dict()
    except Exception as error:  # whatever a broken or hostile sender put in
        raise MarketError(f"its parameters cannot be read: {error}") from error


def _profile(content: RecordDict) -> Profile | None:
    """Return what an agent tells of its purpose, or None where it tells nothing."""
    if "profile" not in content.config_records:
        return None
    record = content.config_records["profile"]
    labels, weights = record.get("labels", []), record.get("class-weights", [])
    if not isinstance(weights, list) or not all(isinstance(weight, float) for weight in weights):
        raise MarketError("its profile's class weights are no list of numbers")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise MarketError("its profile's labels are no list of whole numbers")
    validation = None
    if "validation" in content.array_records:
        tensors = _tensors(content.array_records["validation"])
        if set(tensors) != {"inputs", "targets"}:
            raise MarketError("its validation data must be inputs and targets")
        validation = tensors["inputs"], tensors["targets"]
    return Profile(tuple(int(str(label)) for label in labels), tuple(float(str(w)) for w in weights), validation)


def _text(content: RecordDict, record: str, key: str, default: str | None = None) -> str:
    value = content.config_records[record].get(key) if record in content.config_records else None
    if isinstance(value, str) and value:
        return value
    if default is None:
        raise MarketError(f"its reply lacks the text {key!r} in {record!r}")
    return default


def _numbers(contents: dict[int, RecordDict], key: str) -> list[float]:
    """Return a metric of all replies that have it, in an order that does not depend on when they arrived."""
    found = (number_in(content, key) for content in contents.values())
    return sorted(value for value in found if value is not None)
