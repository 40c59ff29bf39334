"""An agent's Flower app: a thin shell around the agent's logic.

Each handler decodes a message, calls the logic, and encodes the reply. The agent's memory stays in
Flower's ``Context.state``, which never leaves the node.

A SuperNode starts a process for each message. What only some messages need is therefore imported
by their handlers: PyTorch and the ledger's SQLAlchemy for training and evaluation, the prices'
scipy for bids and asks.
"""

from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from clients.agent import Agent
from clients.faults import one_sentence_faults
from fl_market.digests import digest_of_bytes
from fl_market.protocol import DisclosedQuote, Offer, PublicPrice, QuoteRequest, Receipt, from_columns, to_columns

if TYPE_CHECKING:
    from fl_market.parameters import StateDict

Record = ArrayRecord | MetricRecord | ConfigRecord

app = ClientApp(mods=[one_sentence_faults])


def copies_given_away(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Train, and give away the copy that the agent means to: a noisy one, or a simulated fault."""
    from clients.privacy import private_training
    from clients.simulated_faults import faulty_copies

    return faulty_copies(message, context, lambda inner, same: private_training(inner, same, call_next))


@app.train(mods=[copies_given_away])
def train_model(message: Message, context: Context) -> Message:
    """Train the agent's own model, or the one that the message carries, and return it."""
    from clients.delivery import receive
    from clients.local_updates import local_update

    agent, config = Agent.at(context), _config(message)
    receive(agent, _carried(message), config.get("model-digest", ""))
    samples, loss = local_update(
        agent,
        config["server-round"],
        common_start=config.get("initialisation") == "common",
        on_pooled_data=config.get("data") == "pooled",
        proximal_mu=config.get("proximal-mu", 0.0),
    )
    records: dict[str, Record] = {
        "arrays": agent.state.arrays,
        "metrics": MetricRecord({"num-examples": samples, "train-loss": loss}),
        "acknowledgement": _acknowledgement(agent),
    }
    if config.get("register"):
        records |= _profile(agent)
    return _reply(message, agent, records)


@app.query("identify")
def identify(message: Message, context: Context) -> Message:
    """Tell a broker that came back which agent is at this node."""
    return _reply(message, Agent.at(context), {})


@app.query("offer")
def answer_offers(message: Message, context: Context) -> Message:
    """Bid on the best offer, or decline."""
    from clients.trading import bid

    agent = Agent.at(context)
    bids = bid(agent, from_columns(Offer, _columns(message, "offers")))
    return _reply(message, agent, {"bids": ConfigRecord(to_columns(bids))})


@app.query("quote")
def answer_quotes(message: Message, context: Context) -> Message:
    """Ask a price for the agent's own parameters."""
    from clients.trading import ask, ask_disclosed

    agent, columns = Agent.at(context), _columns(message, "quotes")
    if agent.options.market.disclosure == "sealed":
        public = from_columns(PublicPrice, _columns(message, "prices"))
        asks = ask(agent, from_columns(QuoteRequest, columns), public)
    else:
        asks = ask_disclosed(agent, from_columns(DisclosedQuote, columns))
    return _reply(message, agent, {"asks": ConfigRecord(to_columns(asks))})


@app.query("delivery")
def acknowledge_delivery(message: Message, context: Context) -> Message:
    """Keep a sealed purchase until its key comes, and acknowledge its bytes."""
    agent, sealed = Agent.at(context), message.content.array_records["sealed"]
    agent.state.sealed = sealed
    held = {name: array.numpy() for name, array in sealed.items()}
    acknowledged = ConfigRecord({"sealed-digest": digest_of_bytes(held)})
    return _reply(message, agent, {"acknowledgement": acknowledged})


@app.evaluate()
def take_delivery(message: Message, context: Context) -> Message:
    """Take delivery of models, open the purchase, and test the agent's current model."""
    from clients.delivery import keep, open_purchase, receive
    from clients.local_updates import adapt_to, evaluate_models, local_update
    from fl_market.ledger import SignedHead

    agent, config = Agent.at(context), _config(message)
    market_round, carried = config["server-round"], _carried(message)
    if "key" in message.content.config_records:
        open_purchase(agent, _columns(message, "key")["key"], config["model-digest"])
    elif config.get("aggregation") == "adaptive" and carried is not None:
        adapt_to(agent, carried, market_round)
    else:
        receive(agent, carried, config.get("model-digest", ""))
    if config.get("fine-tune"):  # the round after the last: its batches are drawn anew
        local_update(agent, market_round + 1)
    head = _columns(message, "head")
    receipts = from_columns(Receipt, _columns(message, "receipts"))
    keep(agent, receipts, SignedHead(**head) if head else None, market_round)
    records: dict[str, Record] = {"acknowledgement": _acknowledgement(agent)}
    if config.get("register"):
        records |= _profile(agent)
    if config.get("return-model") and not agent.options.agent.local_privacy:
        records["arrays"] = agent.state.arrays
    if agent.options.tests_in(market_round):
        ensemble = _state_dicts(message, "ensemble")
        records["metrics"] = evaluate_models(agent, ensemble or [agent.state.model])
    return _reply(message, agent, records)


def _config(message: Message) -> dict[str, Any]:
    return dict(message.content.config_records["config"])


def _columns(message: Message, name: str) -> dict[str, Any]:
    return dict(message.content.config_records.get(name, {}))


def _state_dicts(message: Message, prefix: str) -> "list[StateDict]":
    records = message.content.array_records.items()
    return [record.to_torch_state_dict() for name, record in records if name.startswith(prefix)]


def _carried(message: Message) -> "StateDict | None":
    return next(iter(_state_dicts(message, "arrays")), None)


def _acknowledgement(agent: Agent) -> ConfigRecord:
    from fl_market.parameters import digest

    return ConfigRecord({"model-digest": digest(agent.state.model)})


def _profile(agent: Agent) -> dict[str, Record]:
    """Return the agent's objective, as the broker needs to know it."""
    data = agent.data
    records: dict[str, Record] = {
        "profile": ConfigRecord({"labels": list(agent.options.label_set), "class-weights": list(data.class_weights)})
    }
    if data.validation is not None:
        inputs, targets = data.validation
        records["validation"] = ArrayRecord({"inputs": inputs, "targets": targets})
    return records


def _reply(message: Message, agent: Agent, records: dict[str, Record]) -> Message:
    records["agent"] = ConfigRecord({"name": agent.name})
    return Message(RecordDict(records), reply_to=message)
