"""An agent's Flower app: it trains, decides what to buy, values what it sells, and takes delivery.

What the agent must remember (its model and its optimiser) is in Flower's ``Context.state``, which never leaves the
node.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from clients.adaptive_aggregation import adapt
from clients.agent_data import AgentData, load_agent_data, pooled
from clients.agent_disk import AgentDisk
from clients.privacy import KNOWN, forget_given_away, given_away, private_training
from clients.quote_history import learned_prior, remember, resolve
from clients.training import evaluate, make_optimiser, pack, train, unpack
from clients.valuation import decide, value, value_disclosed
from fl_market.configuration import Configuration, agent_number
from fl_market.errors import MarketError
from fl_market.local_privacy import LocalPrivacy, parse_local_privacy
from fl_market.naming import agent_name
from fl_market.parameters import StateDict, digest
from fl_market.pricing import micro_credits, parse_prior, parse_rule
from fl_market.protocol import Debt, DisclosedQuote, Offer, PublicPrice, QuoteRequest, Receipt, from_columns, to_columns
from fl_market.seeds import reproducible

MODEL, OPTIMISER, SHARES, BOUGHT = "model", "optimiser", "adaptive-shares", "bought"
Record = ArrayRecord | MetricRecord | ConfigRecord


def _privacy_of(context: Context) -> LocalPrivacy | None:
    return parse_local_privacy(_options(context).local_privacy)


def _initial_model(message: Message, context: Context) -> nn.Module:
    options, index = _options(context), _index(context)
    own = message.content.config_records["config"].get("initialisation") != "common"
    task = load_agent_data(options, index).task
    return task.initial_model(options.seed, agent_name(index) if own else None)


app = ClientApp()


@app.train(mods=[private_training(_privacy_of, lambda message, context: _initial_model(message, context).state_dict())])
def train_model(message: Message, context: Context) -> Message:
    """Train the agent's own model, or the one that the message carries, and reply with it."""
    options, index = _options(context), _index(context)
    data, hardware = load_agent_data(options, index), options.hardware
    task = data.task
    config = message.content.config_records["config"]
    training = pooled(task) if config.get("data") == "pooled" else data.training
    _receive(message, context)
    with reproducible(options.seed, "local-training", index):
        if MODEL in context.state:
            model = task.build_model()
            model.load_state_dict(context.state.array_records[MODEL].to_torch_state_dict())
        else:
            model = _initial_model(message, context)
        model.to(hardware.device)
        optimiser = make_optimiser(model, options.optimiser, options.learning_rate, options.momentum)
        if OPTIMISER in context.state:
            optimiser.load_state_dict(unpack(bytes(context.state.config_records[OPTIMISER]["state"])))  # type: ignore[arg-type]
        loss = train(
            model,
            optimiser,
            task.criterion,
            training,
            epochs=options.local_epochs,
            batch_size=options.batch_size or task.batch_size,
            seed=options.seed,
            purpose=("batches", index, int(str(config["server-round"]))),
            augment=task.augment,
            proximal_mu=float(str(config.get("proximal-mu", 0.0))),
            hardware=hardware,
        )
    arrays = ArrayRecord({name: tensor.cpu() for name, tensor in model.state_dict().items()})
    context.state[MODEL] = arrays
    context.state[OPTIMISER] = ConfigRecord({"state": pack(optimiser.state_dict())})
    metrics = MetricRecord({"num-examples": len(training[0]), "train-loss": loss})
    content: dict[str, Record] = {"arrays": arrays, "metrics": metrics, "acknowledgement": _acknowledgement(context)}
    if config.get("register"):
        content |= _profile(options, data)
    return _reply(message, index, content)


@app.query("identify")
def identify(message: Message, context: Context) -> Message:
    """Say who is at this node, to a broker that came back."""
    return _reply(message, _index(context), {})


@app.query("offer")
def answer_offers(message: Message, context: Context) -> Message:
    """Bid on the best offer, or decline."""
    offers, options = from_columns(Offer, message.content.config_records["offers"]), _options(context)
    most_each = micro_credits(options.purchase_limit) if options.purchase_limit else None
    left = None
    if options.spending_limit:
        left = max(0, micro_credits(options.spending_limit) - _spent(context))
    bids = decide(offers, options.bid_scale, most_each, left)
    return _reply(message, _index(context), {"bids": ConfigRecord(to_columns(bids))})


@app.query("debt")
def answer_debts(message: Message, context: Context) -> Message:
    """Agree to pay for deliveries that the broker had no acknowledgement of, if the agent holds all their receipts."""
    debts, receipted = from_columns(Debt, message.content.config_records["debts"]), _receipted(context)
    agreed = all(receipted.get(debt.deal) == debt.price for debt in debts)
    return _reply(message, _index(context), {"payment": ConfigRecord({"agreed": agreed})})


@app.query("quote")
def answer_quotes(message: Message, context: Context) -> Message:
    """Ask for the agent's own parameters what its prior, or what the broker disclosed, says that they will fetch."""
    options = _options(context)
    columns = message.content.config_records["quotes"]
    if options.disclosure == "sealed":
        prior = None
        if options.learn_prior:
            public = from_columns(PublicPrice, message.content.config_records.get("prices", {}))
            prior = learned_prior(context, parse_rule(options.pricing), options.bid_scale, public)
        requests = from_columns(QuoteRequest, columns)
        asks = value(requests, prior or parse_prior(options.prior), options.cost, options.bid_scale)
    else:
        disclosed = from_columns(DisclosedQuote, columns)
        asks = value_disclosed(disclosed, options.disclosure, options.cost, options.bid_scale)
    reserve = micro_credits(options.reserve_price)
    asks = [replace(ask, amount=max(ask.amount, reserve)) for ask in asks]
    remember(context, asks)
    return _reply(message, _index(context), {"asks": ConfigRecord(to_columns(asks))})


@app.evaluate()
def take_delivery(message: Message, context: Context) -> Message:
    """Take delivery of what was bought, acknowledge it, and test the agent's current model."""
    options, index = _options(context), _index(context)
    if message.content.config_records["config"].get("aggregation") == "adaptive":
        _adapt(message, context)
    else:
        _receive(message, context)
    receipts = from_columns(Receipt, message.content.config_records.get("receipts", {}))
    resolve(context, receipts)
    state = context.state.array_records[MODEL].to_torch_state_dict()
    _keep(context, state, receipts, int(str(message.content.config_records["config"]["server-round"])))
    content: dict[str, Record] = {"acknowledgement": _acknowledgement(context)}
    if options.tests_in(int(str(message.content.config_records["config"]["server-round"]))):
        states = [record.to_torch_state_dict() for record in _records(message, "ensemble")]
        content["metrics"] = _tested(options, index, states or [state])
    return _reply(message, index, content)


def _keep(context: Context, state: StateDict, receipts: Sequence[Receipt], market_round: int) -> None:
    """Write the agent's model and receipts to its own disk, before anything is acknowledged; and what it has spent."""
    bought = [receipt for receipt in receipts if receipt.side == "bought"]
    spent = _spent_since_start(context) + sum(receipt.price for receipt in bought)
    prices = _receipted_since_start(context) | {receipt.deal: receipt.price for receipt in bought}
    context.state[BOUGHT] = ConfigRecord(
        {"micro-credits": spent, "deals": list(prices), "prices": list(prices.values())}
    )
    if (disk := _disk(context)) is not None:
        disk.note(receipts, context.run_id, market_round)
        disk.save_memory({name: dict(record) for name, record in context.state.config_records.items()}, digest(state))
        disk.save_model(state, context.run_id, market_round)


def _spent(context: Context) -> int:
    """Return what the agent has spent; its disk outlives the node, and knows of earlier runs as well."""
    disk = _disk(context)
    return _spent_since_start(context) if disk is None else disk.spent()


def _spent_since_start(context: Context) -> int:
    record = context.state.config_records.get(BOUGHT)
    return 0 if record is None else int(str(record["micro-credits"]))


def _receipted(context: Context) -> dict[str, int]:
    """Return the price of each deal of which the agent holds a receipt for what it bought."""
    disk = _disk(context)
    entries = [] if disk is None else [entry for entry in disk.receipts() if entry["side"] == "bought"]
    return {str(entry["deal"]): int(entry["price"]) for entry in entries} | _receipted_since_start(context)


def _receipted_since_start(context: Context) -> dict[str, int]:
    record: Mapping[str, Any] = context.state.config_records.get(BOUGHT, {})
    return dict(zip(record.get("deals", []), record.get("prices", []), strict=True))


def _acknowledgement(context: Context) -> ConfigRecord:
    """Return what the agent says of the model that it holds."""
    return ConfigRecord({"model-digest": digest(context.state.array_records[MODEL].to_torch_state_dict())})


def _disk(context: Context) -> AgentDisk | None:
    folder = _options(context).agent_dir
    return AgentDisk(Path(folder) / agent_name(_index(context))) if folder else None


def _tested(options: Configuration, index: int, states: Sequence[StateDict]) -> MetricRecord:
    data, hardware = load_agent_data(options, index), options.hardware
    task = data.task
    with reproducible(options.seed, "evaluation", index):
        models = []
        for state in states:
            models.append(task.build_model().to(hardware.device))
            models[-1].load_state_dict(state)
        loss, accuracy, on_targets = evaluate(models, task.criterion, task.test, data.class_weights, hardware)
    return MetricRecord(
        {
            "num-examples": len(task.test[0]),
            "test-loss": loss,
            "test-accuracy": accuracy,
            "target-accuracy": on_targets,
        }
    )


def _profile(options: Configuration, data: AgentData) -> dict[str, Record]:
    """Return what the agent tells the broker of its purpose."""
    content: dict[str, Record] = {
        "profile": ConfigRecord({"labels": list(options.label_set), "class-weights": list(data.class_weights)})
    }
    if data.validation is not None:
        inputs, targets = data.validation
        content["validation"] = ArrayRecord({"inputs": inputs, "targets": targets})
    return content


def _receive(message: Message, context: Context) -> None:
    """Take over the parameters that a message carries; without any, make sure that the agent's own are those meant.

    The optimiser restarts where the parameters changed, and survives where they did not. What the agent gave away
    blurred does not take the place of what it holds exactly, when a broker that missed a reply sends it back.

    Raises
    ------
    MarketError
        If the parameters are not those that the message announces.
    """
    expected = message.content.config_records["config"].get("model-digest", "")
    carried = next(iter(_records(message, "arrays")), None)
    own = context.state.array_records.get(MODEL)
    if carried is not None:
        sha = digest(carried.to_torch_state_dict())
        if expected and sha != expected:
            raise MarketError("the parameters that arrived are not those that were sent: their SHA-256 differs")
        if own is not None and sha in given_away(context):
            return  # the broker's copy of what the agent has itself, and exactly
        if own is None or digest(own.to_torch_state_dict()) != sha:
            context.state[MODEL] = carried
            if KNOWN in context.state:
                context.state[KNOWN] = carried
                forget_given_away(context)
            if OPTIMISER in context.state:
                del context.state[OPTIMISER]
            if own is None and (disk := _disk(context)) is not None:
                for name, record in disk.memory_beside(sha).items():
                    context.state[name] = ConfigRecord(dict(record))
    elif expected and (own is None or digest(own.to_torch_state_dict()) != expected):
        raise MarketError("the agent no longer holds the model that the broker has on record")


def _adapt(message: Message, context: Context) -> None:
    """Take over of the global parameters what FedALA's weights say, and keep the weights."""
    options, index = _options(context), _index(context)
    data, hardware = load_agent_data(options, index), options.hardware
    config = message.content.config_records["config"]
    with reproducible(options.seed, "adaptive-aggregation", index):
        known = context.state.array_records.get(SHARES)
        adapted, shares = adapt(
            data.task.build_model().to(hardware.device),
            data.task.criterion,
            context.state.array_records[MODEL].to_torch_state_dict(),
            message.content.array_records["arrays"].to_torch_state_dict(),
            None if known is None else list(known.to_torch_state_dict().values()),
            data.training,
            batch_size=options.batch_size or data.task.batch_size,
            seed=options.seed,
            purpose=("adaptive-data", index, int(str(config["server-round"]))),
            hardware=hardware,
        )
    context.state[MODEL] = ArrayRecord(adapted)
    context.state[SHARES] = ArrayRecord({str(place): share for place, share in enumerate(shares)})
    if OPTIMISER in context.state:
        del context.state[OPTIMISER]


def _records(message: Message, prefix: str) -> list[ArrayRecord]:
    return [record for name, record in message.content.array_records.items() if name.startswith(prefix)]


def _options(context: Context) -> Configuration:
    return Configuration.of_node(context.run_config, context.node_config)


def _index(context: Context) -> int:
    return agent_number(context.node_config)


def _reply(message: Message, index: int, records: dict[str, Record]) -> Message:
    records["agent"] = ConfigRecord({"name": agent_name(index)})
    return Message(RecordDict(records), reply_to=message)
