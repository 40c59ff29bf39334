"""Conversion between Flower's records and the market's types.

Replies of agents are decoded, and messages to agents encoded. A sender may be broken or hostile: an
invalid reply raises a MarketError of one clause about the sender.
"""

from collections.abc import Iterable, Mapping, Sequence

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fl_market.errors import MarketError
from fl_market.gains import Profile
from fl_market.market.outcome import Acknowledgement
from fl_market.parameters import StateDict
from fl_market.protocol import Ask, Bid, Item, from_columns, to_columns
from strategies.history import number_in

HELD = "acknowledgement"
"""Record in which an agent says what it holds."""


def text_in(content: RecordDict, record: str, key: str) -> str:
    """Return a text of a reply.

    Raises
    ------
    MarketError
        If it is missing, empty, or not a text.
    """
    value = content.config_records[record].get(key) if record in content.config_records else None
    if not isinstance(value, str) or not value:
        raise MarketError(f"its reply lacks the text {key!r} in {record!r}")
    return value


def agent_in(content: RecordDict) -> str:
    """Return the agent's name in a reply."""
    return text_in(content, "agent", "name")


def held_in(content: RecordDict | None) -> str:
    """Return the SHA-256 of the model that an agent says it holds; empty if it does not say."""
    try:
        return "" if content is None else text_in(content, HELD, "model-digest")
    except MarketError:
        return ""


def acknowledgement_in(content: RecordDict) -> Acknowledgement:
    """Return the acknowledgement of a sealed purchase.

    Raises
    ------
    MarketError
        If there is none.
    """
    return Acknowledgement(text_in(content, HELD, "sealed-digest"))


def parameters_in(content: RecordDict) -> StateDict:
    """Return the parameters of a training reply.

    Raises
    ------
    MarketError
        If the number of sets is not one, or the set cannot be read.
    """
    records = [record for name, record in content.array_records.items() if name != "validation"]
    if len(records) != 1:
        raise MarketError(f"its reply must have one set of parameters; got {len(records)}")
    return tensors_in(records[0])


def tensors_in(record: ArrayRecord) -> StateDict:
    """Return the tensors of a record.

    Raises
    ------
    MarketError
        If they cannot be read.
    """
    try:
        return record.to_torch_state_dict()
    except Exception as error:  # a broken or hostile sender may cause any error
        raise MarketError(f"its parameters cannot be read: {error}") from error


def profile_in(content: RecordDict) -> Profile | None:
    """Return the description of an agent's objective, or None without one.

    Raises
    ------
    MarketError
        If a part of it has the wrong type.
    """
    if "profile" not in content.config_records:
        return None
    record = content.config_records["profile"]
    labels, weights = record.get("labels", []), record.get("class-weights", [])
    if not isinstance(weights, list) or not all(isinstance(weight, float) for weight in weights):
        raise MarketError("the class weights of its profile must be a list of numbers")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise MarketError("the labels of its profile must be a list of whole numbers")
    validation = None
    if "validation" in content.array_records:
        tensors = tensors_in(content.array_records["validation"])
        if set(tensors) != {"inputs", "targets"}:
            raise MarketError("its validation data must be inputs and targets")
        validation = tensors["inputs"], tensors["targets"]
    return Profile(tuple(int(str(label)) for label in labels), tuple(float(str(w)) for w in weights), validation)


def bids_in(content: RecordDict) -> list[Bid]:
    """Return a buyer's bids; empty if it declines.

    Raises
    ------
    MarketError
        If the record does not hold bids.
    """
    return from_columns(Bid, content.config_records.get("bids", {}))


def asks_in(content: RecordDict) -> list[Ask]:
    """Return a seller's asks; empty if it declines.

    Raises
    ------
    MarketError
        If the record does not hold asks.
    """
    return from_columns(Ask, content.config_records.get("asks", {}))


def numbers_in(contents: Iterable[RecordDict], key: str) -> list[float]:
    """Return a metric of all replies that have it, in an order independent of their arrival."""
    found = (number_in(content, key) for content in contents)
    return sorted(value for value in found if value is not None)


def as_record(items: Sequence[Item]) -> ConfigRecord:
    """Return the record of items of one kind."""
    return ConfigRecord(to_columns(items))


def message_content(
    config: Mapping[str, object], server_round: int, *, digest: str | None = None, model: StateDict | None = None
) -> RecordDict:
    """Return a message's content for one agent.

    Parameters
    ----------
    config
        Configuration that all agents receive.
    server_round
        Number of the round.
    digest
        SHA-256 of the model that the agent must hold; None for an agent that must register.
    model
        Parameters; None if the agent is known to hold the same.
    """
    own = ConfigRecord({**config, "server-round": server_round})  # type: ignore[dict-item]
    if digest is None:
        own["register"] = True
    else:
        own["model-digest"] = digest
    content = RecordDict({"config": own})
    if model is not None:
        content["arrays"] = ArrayRecord(dict(model))
    return content
