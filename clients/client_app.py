"""An agent's Flower app: it trains, decides what to buy, values what it sells, and takes delivery.

What the agent must remember (its model and its optimiser) is in Flower's ``Context.state``, which never leaves the
node.
"""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from clients.quote_history import learned_prior, remember, resolve
from clients.training import class_weights, evaluate, pack, target_accuracy, train, unpack
from clients.valuation import decide, value, value_disclosed
from fl_market.configuration import PRIVATE_OPTIONS, Configuration
from fl_market.errors import MarketError
from fl_market.naming import agent_name
from fl_market.parameters import digest
from fl_market.pricing import parse_prior, parse_rule
from fl_market.protocol import DisclosedQuote, Offer, PublicPrice, QuoteRequest, Receipt, from_columns, to_columns
from fl_market.seeds import reproducible

app = ClientApp()

MODEL, OPTIMISER = "model", "optimiser"


@app.train()
def train_model(message: Message, context: Context) -> Message:
    """Train the agent's own model, or the one that the message carries, and reply with it."""
    options, index = _options(context), _index(context)
    task = options.load_task()
    server_round = int(str(message.content.config_records["config"]["server-round"]))
    _receive(message, context)
    with reproducible(options.seed, "local-training", index):
        model = task.build_model()
        if MODEL not in context.state:
            own = message.content.config_records["config"].get("initialisation") != "common"
            model = task.initial_model(options.seed, agent_name(index) if own else None)
        else:
            model.load_state_dict(context.state.array_records[MODEL].to_torch_state_dict())
        optimiser = torch.optim.SGD(model.parameters(), lr=options.learning_rate, momentum=options.momentum)
        if OPTIMISER in context.state:
            optimiser.load_state_dict(unpack(bytes(context.state.config_records[OPTIMISER]["state"])))  # type: ignore[arg-type]
        loss = train(
            model,
            optimiser,
            task.criterion,
            task.agents[index],
            epochs=options.local_epochs,
            batch_size=options.batch_size or task.batch_size,
            seed=options.seed,
            purpose=("batches", index, server_round),
        )
    arrays = ArrayRecord(model.state_dict())
    context.state[MODEL] = arrays
    context.state[OPTIMISER] = ConfigRecord({"state": pack(optimiser.state_dict())})
    metrics = MetricRecord({"num-examples": len(task.agents[index][0]), "train-loss": loss})
    content: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {"arrays": arrays, "metrics": metrics}
    if weights := _class_weights(options, index):
        content["profile"] = ConfigRecord({"class-weights": weights})
    return _reply(message, index, content)


@app.query("offer")
def answer_offers(message: Message, context: Context) -> Message:
    """Bid on the best offer, or decline."""
    offers = from_columns(Offer, message.content.config_records["offers"])
    bids = decide(offers, _options(context).bid_scale)
    return _reply(message, _index(context), {"bids": ConfigRecord(to_columns(bids))})


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
    remember(context, asks)
    return _reply(message, _index(context), {"asks": ConfigRecord(to_columns(asks))})


@app.evaluate()
def take_delivery(message: Message, context: Context) -> Message:
    """Take delivery of what was bought, acknowledge it, and test the agent's current model."""
    options, index = _options(context), _index(context)
    task = options.load_task()
    _receive(message, context)
    resolve(context, from_columns(Receipt, message.content.config_records.get("receipts", {})))
    with reproducible(options.seed, "evaluation", index):
        model: nn.Module = task.build_model()
        state = context.state.array_records[MODEL].to_torch_state_dict()
        model.load_state_dict(state)
        loss, accuracy = evaluate(model, task.criterion, task.test)
        weights = _class_weights(options, index)
        on_targets = target_accuracy(model, task.test, weights) if weights else accuracy
    metrics = MetricRecord(
        {
            "num-examples": len(task.test[0]),
            "test-loss": loss,
            "test-accuracy": accuracy,
            "target-accuracy": on_targets,
        }
    )
    return _reply(
        message, index, {"metrics": metrics, "acknowledgement": ConfigRecord({"model-digest": digest(state)})}
    )


def _receive(message: Message, context: Context) -> None:
    """Take over the parameters that a message carries; without any, make sure that the agent's own are those meant.

    The optimiser restarts where the parameters changed, and survives where they did not.

    Raises
    ------
    MarketError
        If the parameters are not those that the message announces.
    """
    expected = message.content.config_records["config"].get("model-digest", "")
    carried = next(iter(message.content.array_records.values()), None)
    own = context.state.array_records.get(MODEL)
    if carried is not None:
        sha = digest(carried.to_torch_state_dict())
        if expected and sha != expected:
            raise MarketError("the parameters that arrived are not those that were sent: their SHA-256 differs")
        if own is None or digest(own.to_torch_state_dict()) != sha:
            context.state[MODEL] = carried
            if OPTIMISER in context.state:
                del context.state[OPTIMISER]
    elif expected and (own is None or digest(own.to_torch_state_dict()) != expected):
        raise MarketError("the agent no longer holds the model that the broker has on record")


def _class_weights(options: Configuration, index: int) -> list[float]:
    task = options.load_task()
    classes = 1 + int(task.test[1].max())
    return class_weights(options.profile, task.agents[index][1], classes)


def _options(context: Context) -> Configuration:
    private = {name: value for name, value in context.node_config.items() if name in PRIVATE_OPTIONS}
    return Configuration.from_mapping({**context.run_config, **private})


def _index(context: Context) -> int:
    index = context.node_config.get("partition-id")
    if not isinstance(index, int):
        raise MarketError("the node configuration lacks partition-id, the number of the agent: 0, 1, …")
    return index


def _reply(message: Message, index: int, records: dict[str, ArrayRecord | MetricRecord | ConfigRecord]) -> Message:
    records["agent"] = ConfigRecord({"name": agent_name(index)})
    return Message(RecordDict(records), reply_to=message)
