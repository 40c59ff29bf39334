"""Hostile and broken agents: the run does not crash, and honest agents' results do not change.

Each attack is compared with a silent agent in its place. The honest agents' learning curves and
deals are equal to the last digit.
"""

import logging

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message

from fl_market.errors import MarketError
from fl_market.ledger import ENDOWMENT, ESCROW, DealState, Ledger
from fl_market.protocol import DELIVERY, OFFER, QUOTE
from fl_market.sealing import unseal
from tests.played import EVALUATE, TRAIN, broken, changed, play, settled, tamper_with

pytestmark = pytest.mark.flower

THREE = {"agents": 3, "partition": "dirichlet(0.5)"}
MEGABYTES_100 = 100_000_000


def silent(message, reply):
    return None


def honest(strategy, ledger):
    """Return the learning curves of A and B, and the deals between them."""
    curves = {name: strategy.history.results[name] for name in "AB"}
    deals = [
        (deal.round, deal.buyer, deal.seller, deal.price, deal.gain)
        for deal, state in ledger.deals()
        if state is DealState.SETTLED and {deal.buyer, deal.seller} == {"A", "B"}
    ]
    return curves, deals


@pytest.fixture(scope="module")
def without():
    """Function from a message type to the results of A and B if C never replies to it."""
    kept = {}

    def played(message_type):
        if message_type not in kept:
            strategy, _, ledger = play(tamper_with("C", message_type, silent), **THREE)
            kept[message_type] = honest(strategy, ledger)
            # with a silent seller C, A and B do not trade: both prefer to buy from C
            assert kept[message_type][1] or message_type == QUOTE, "A and B trade"
        return kept[message_type]

    return played


def grown(state):
    state["1.weight"] = torch.zeros(3200, 784)


def a_hundred_models(state):
    state.update({f"{number}.{name}": tensor for number in range(99) for name, tensor in list(state.items())})


def heavy(message, reply):
    return changed(reply, junk=ArrayRecord({"0": torch.zeros(MEGABYTES_100 // 4)}))


def heavy_text(message, reply):
    return changed(reply, arrays=ArrayRecord({}), junk=ConfigRecord({"text": "x" * MEGABYTES_100}))


def absurd(state):
    for tensor in state.values():
        tensor.fill_(3e38)


TRAINING = {
    "NaN": (broken(lambda state: state["1.weight"].fill_(float("nan"))), "NaN"),
    "Inf": (broken(lambda state: state["9.bias"].fill_(float("inf"))), "infinite"),
    "shape": (broken(lambda state: state.update({"1.weight": torch.zeros(2, 2)})), "shape"),
    "dtype": (broken(lambda state: state.update({"9.bias": torch.zeros(10).double()})), "dtype"),
    "names": (broken(lambda state: state.update({"head.bias": state.pop("9.bias")})), "9.bias"),
    "100 times too large": (broken(grown), "shape"),
    "100 models": (broken(a_hundred_models), "contain"),
    "100 MB more": (heavy, "must have one set of parameters; got 2"),
    "100 MB of text": (heavy_text, "lack"),
    "digest": (
        lambda message, reply: changed(reply, acknowledgement=ConfigRecord({"model-digest": 7})),
        "model-digest",
    ),
    "name": (lambda message, reply: changed(reply, agent=ConfigRecord({"name": "A"})), "claims to be agent A"),
    "line breaks in a name": (
        lambda message, reply: changed(reply, agent=ConfigRecord({"name": "A\n9.bias"})),
        "claims to be agent A 9.bias",
    ),
    "blank error": (lambda message, reply: Message(Error(1, " "), reply_to=message), "an error"),
    "error": (lambda message, reply: Message(Error(1, "secret\ntraceback: it broke"), reply_to=message), "it broke"),
}


@pytest.mark.parametrize("attack", TRAINING)
def test_hostile_training_replies(attack, without, caplog):
    change, complaint = TRAINING[attack]
    with caplog.at_level(logging.WARNING, "flwr"):
        strategy, _, ledger = play(tamper_with("C", TRAIN, change), **THREE)
    assert honest(strategy, ledger) == without(TRAIN)
    about = [line for line in messages(caplog) if complaint in line]
    assert len(about) == 2, "one line for each of two rounds"
    assert all(strategy.broker.state.pseudonyms["C"] in line and len(line.splitlines()) == 1 for line in about)
    assert max(map(len, messages(caplog))) < 500


@pytest.mark.parametrize("name", ["A\n9.bias", "A/A", "B+C", "market/escrow", "x" * 61])
def test_names_with_characters_of_ids_get_no_seat(name, without, caplog):
    def tamper(agent, message, reply):
        if agent == "C" and message.metadata.message_type == TRAIN:
            return changed(reply, agent=ConfigRecord({"name": name}))
        return reply

    strategy, _, ledger = play(tamper, **THREE)
    assert "an agent's name must be" in caplog.text
    assert set(strategy.history.results) == {"A", "B"}
    assert set(ledger.balances()) == {"A", "B", ENDOWMENT, ESCROW}


def test_a_delivery_that_nobody_paid_for_cannot_be_read():
    """C takes every delivery without an acknowledgement, and sells on whatever it can read."""
    taken = []

    def tamper(name, message, reply):
        if name == "C" and message.metadata.message_type == DELIVERY:
            taken.append(message.content)
            return None
        return reply

    _, grid, ledger = play(tamper, profile="own", **THREE)
    assert taken
    mine = [state for deal, state in ledger.deals() if deal.buyer == "C"]
    assert set(mine) == {DealState.REFUNDED}
    assert not any("key" in message.content for message in grid.sent(EVALUATE, "C"))
    for content in taken:
        sealed = content["sealed"].to_torch_state_dict()
        assert all(tensor.dtype == torch.uint8 for tensor in sealed.values())
        with pytest.raises(MarketError, match="does not open"):
            unseal(sealed, bytes(32))


def test_a_stranger_cannot_change_an_agents_objective():
    """With accounts bound to nodes, C claims to be B, which took part in an earlier run."""
    ledger = Ledger.open()
    ledger.open_account("B", 100_000_000, "1001")

    def tamper(name, message, reply):
        if name == "B":
            return None
        if name == "C" and message.metadata.message_type == TRAIN:
            weights = ConfigRecord({"labels": [], "class-weights": [0.0] * 9 + [1.0]})
            return changed(reply, agent=ConfigRecord({"name": "B"}), profile=weights)
        return reply

    strategy, _, _ = play(tamper, ledger=ledger, bind_accounts=True, **THREE)
    assert "B" not in strategy.broker.state.profiles


def messages(caplog):
    return [record.getMessage() for record in caplog.records]


def test_absurd_finite_parameters_are_not_for_sale():
    _, _, ledger = play(tamper_with("C", TRAIN, broken(absurd)), **THREE)
    assert not [deal for deal, _ in ledger.deals() if deal.seller == "C" and deal.round > 1]


def bidding(amount):
    def change(message, reply):
        return changed(reply, bids=ConfigRecord({"offer": message.content["offers"]["id"][:1], "amount": [amount]}))

    return change


def twice(message, reply):
    first = message.content["offers"]["id"][:1]
    return changed(reply, bids=ConfigRecord({"offer": first * 2, "amount": [10, 10]}))


BIDS = {
    "negative": bidding(-1),
    "NaN": bidding(float("nan")),
    "huge": bidding(2**62),
    "text": bidding("all"),
    "bool": bidding(True),
    "none": lambda message, reply: changed(reply, bids=ConfigRecord({"offer": [], "amount": []})),
    "100 MB": lambda message, reply: changed(reply, bids=ConfigRecord({"offer": ["x" * MEGABYTES_100], "amount": [1]})),
    "twice": twice,
    "round 1": lambda message, reply: changed(reply, bids=ConfigRecord({"offer": ["1/agent-0"], "amount": [9]})),
    "error": lambda message, reply: Message(Error(0, ""), reply_to=message),
}


@pytest.mark.parametrize("attack", BIDS)
def test_hostile_bids(attack, without):
    strategy, _, ledger = play(tamper_with("C", OFFER, BIDS[attack]), **THREE)
    assert honest(strategy, ledger) == without(OFFER)
    assert not [deal for deal, _ in ledger.deals() if deal.buyer == "C"]


def test_a_bid_on_another_agents_offer_is_ignored(without, caplog):
    """C bids on A's offer of C's parameters; offers from one seller to A and C have the same id."""
    offered, claimed = {}, []

    def tamper(name, message, reply):
        if message.metadata.message_type == OFFER:
            offered[name] = set(message.content["offers"]["id"])
            if name == "C":
                claimed.extend(offered["A"] - offered["C"])
                return changed(reply, bids=ConfigRecord({"offer": claimed[-1:], "amount": [10] * len(claimed[-1:])}))
        return reply

    strategy, _, ledger = play(tamper, **THREE)
    assert claimed, "A is offered what C sells"
    assert "not one of its own" in caplog.text
    assert honest(strategy, ledger) == without(OFFER)
    assert ledger.verify() == []


def is_offer(message):
    return message.metadata.message_type == OFFER


def test_a_deal_above_the_balance_is_void_and_costs_nothing():
    _, _, ledger = play(tamper_with("C", OFFER, bidding(900_000_000)), pricing="split(1)", **THREE)
    mine = [state for deal, state in ledger.deals() if deal.buyer == "C"]
    assert mine
    assert set(mine) == {DealState.VOID}
    assert ledger.balance("C") >= 100_000_000


def asking(amount):
    def change(message, reply):
        identifiers = message.content["quotes"]["id"]
        return changed(reply, asks=ConfigRecord({"quote": identifiers, "amount": [amount] * len(identifiers)}))

    return change


ASKS = {
    "negative": asking(-5),
    "NaN": asking(float("nan")),
    "huge": asking(2**62),
    "another's": lambda message, reply: changed(reply, asks=ConfigRecord({"quote": ["2/agent-0"], "amount": [0]})),
    "100 MB": lambda message, reply: changed(reply, asks=ConfigRecord({"quote": ["x" * MEGABYTES_100], "amount": [1]})),
}


@pytest.mark.parametrize("attack", ASKS)
def test_hostile_asks(attack, without, caplog):
    with caplog.at_level(logging.WARNING, "flwr"):
        strategy, _, ledger = play(tamper_with("C", QUOTE, ASKS[attack]), **THREE)
    about = messages(caplog)
    assert about
    assert all(strategy.broker.state.pseudonyms["C"] in line and len(line) < 500 for line in about)
    assert honest(strategy, ledger) == without(QUOTE)
    assert not [deal for deal, _ in ledger.deals() if deal.seller == "C"]


def test_replayed_reordered_and_duplicated_messages_have_no_effect():
    earlier = []

    def replay(replies):
        again = [*earlier, *reversed(replies), *replies]
        earlier.extend(replies)
        return again

    replayed, plain = play(reorder=replay, **THREE), play(**THREE)
    assert replayed[0].history.results == plain[0].history.results
    assert [deal for deal, _ in replayed[2].deals()] == [deal for deal, _ in plain[2].deals()]


def test_an_answer_after_the_timeout_is_ignored(without):
    """C's training replies arrive among the replies of the next exchange."""
    held: list[Message] = []

    def hold_back(name, message, reply):
        if name == "C" and message.metadata.message_type == TRAIN and message.metadata.group_id != "1":
            held.append(reply)
            return None
        return reply

    def arrive(replies):
        """Return the replies, with those that were held back before this exchange."""
        late, arrived[:] = held[: len(arrived)], held
        return [*late, *replies]

    arrived: list[Message] = []
    strategy, _, ledger = play(hold_back, reorder=arrive, **THREE)
    assert len(held) == 2
    assert honest(strategy, ledger) == without(TRAIN)


def test_several_identities_of_one_seller_earn_no_more_than_one():
    """C and D sell what B trained."""
    trained = {}

    def copies(name, message, reply):
        if message.metadata.message_type == TRAIN:
            if name == "B":
                trained["B"] = reply.content["arrays"].to_torch_state_dict()
            if name in "CD":
                return changed(reply, arrays=ArrayRecord(dict(trained["B"])))
        return reply

    def alone(name, message, reply):
        return None if name in "CD" else reply

    options = {"agents": 4, "partition": "dirichlet(0.5)", "max_purchases": 2, "num_server_rounds": 2}
    many, one = play(copies, **options), play(alone, **options)
    earned = [
        sum(deal.price for deal, state in ledger.deals() if deal.buyer == "A" and state is DealState.SETTLED)
        for _, _, ledger in (many, one)
    ]
    assert earned[0] == earned[1] > 0
    assert many[0].history.results["A"] == one[0].history.results["A"]


def test_parameters_poisoned_for_one_class_are_not_offered(caplog):
    """C's model is the best on average, but almost never predicts one class."""
    options = THREE | {"class_tolerance": 1.0, "learning_rate": 0.05, "num_server_rounds": 3}

    def poison(name, message, reply):
        if name == "C" and message.metadata.message_type == TRAIN and message.metadata.group_id != "1":
            return changed(reply, arrays=ArrayRecord(poisoned()))
        return reply

    def absent(name, message, reply):
        return (
            None
            if name == "C" and message.metadata.message_type == TRAIN and message.metadata.group_id != "1"
            else reply
        )

    _, _, ledger = play(poison, **(options | {"class_tolerance": 0.0}))
    assert {deal.buyer for deal, _ in ledger.deals() if deal.seller == "C"} == {"A", "B"}
    with caplog.at_level(logging.WARNING, "flwr"):
        careful, _, ledger = play(poison, **options)
    assert not [deal for deal, _ in ledger.deals() if deal.seller == "C"]
    line = f"{careful.broker.state.pseudonyms['C']}: its parameters would harm a buyer in class 3"
    assert [text for text in messages(caplog) if line in text]
    assert honest(careful, ledger) == honest(*play(absent, **options)[::2])


def poisoned():
    """Return a model trained on all data that almost never predicts class 3."""
    if not _POISONED:
        from clients.training import train
        from fl_market.tasks import TaskOptions, load_task

        task = load_task("mnist-mlp", TaskOptions())
        model = task.initial_model(0)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.003)
        data = tuple(torch.cat(parts) for parts in zip(*task.agents, strict=True))
        for epoch in range(10):
            train(model, optimiser, task.criterion, data, epochs=1, batch_size=64, seed=0, purpose=("poison", epoch))
        with torch.no_grad():
            model[-1].bias[3] -= 12
        _POISONED.update(model.state_dict())
    return dict(_POISONED)


_POISONED = {}


def lost_acknowledgements(every):
    """Return a tamper function: C acknowledges only some of its deliveries."""
    count = [0]

    def tamper(name, message, reply):
        if name == "C" and message.metadata.message_type == DELIVERY:
            count[0] += 1
            return reply if count[0] % every == 0 else None
        return reply

    return tamper


LONG = THREE | {"num_server_rounds": 8}


def test_a_buyer_that_acknowledges_every_third_delivery_has_no_more_than_it_pays_for():
    """Before deliveries were sealed, it had three models for the price of one."""
    _, grid, ledger = play(lost_acknowledgements(every=3), **LONG)
    mine = [(deal.round, state) for deal, state in ledger.deals() if deal.buyer == "C"]
    paid = {number for number, state in mine if state is DealState.SETTLED}
    assert paid
    assert {number for number, state in mine if state is DealState.REFUNDED} - paid, "and some were refunded"
    keys = {int(message.metadata.group_id) for message in grid.sent(EVALUATE, "C") if "key" in message.content}
    assert keys == paid
    receipts = [message.content["receipts"] for message in grid.sent(EVALUATE, "C") if "receipts" in message.content]
    trades = [trade for some in receipts for trade in zip(some["price"], some["side"], strict=True)]
    bought = [price for price, side in trades if side == "bought"]
    assert sorted(bought) == sorted(
        deal.price for deal, state in ledger.deals() if deal.buyer == "C" and state is DealState.SETTLED
    )


def test_a_buyer_that_cannot_open_its_purchase_gets_the_key_again_and_then_the_model():
    """It has paid: its first answers to the key are errors, in each of two rounds."""
    failed = []

    def tamper(name, message, reply):
        if name == "C" and message.metadata.message_type == EVALUATE and "key" in message.content and len(failed) < 3:
            failed.append(message.metadata.group_id)
            return Message(Error(1, "the disk is full"), reply_to=message)
        return reply

    _, grid, ledger = play(tamper, **LONG)
    assert failed[0] == failed[1], "the key came twice in one round"
    first = int(failed[0])
    states = {state for deal, state in ledger.deals() if deal.buyer == "C" and deal.round == first}
    assert states == {DealState.SETTLED}
    (next_training,) = [m for m in grid.sent(TRAIN, "C") if int(m.metadata.group_id) == first + 1]
    assert "arrays" in next_training.content, "the model that it has paid for"
    assert failed[2] > failed[0], "after one error the key opens the purchase"
    again = [m for m in grid.sent(EVALUATE, "C") if m.metadata.group_id == failed[2] and "key" in m.content]
    assert len(again) == 2
    later = int(failed[2]) + 1
    assert not any("arrays" in m.content for m in grid.sent(TRAIN, "C") if int(m.metadata.group_id) == later)


def test_an_account_belongs_to_the_node_that_opened_it(caplog):
    """In a second run with the same ledger, A's node is absent and B's node claims to be A."""
    ledger = Ledger.open()
    play(ledger=ledger, bind_accounts=True)
    balance = ledger.balance("A")

    def impostor(name, message, reply):
        if name == "A":
            return None
        return changed(reply, agent=ConfigRecord({"name": "A"})) if name == "B" else reply

    with caplog.at_level(logging.WARNING, "flwr"):
        play(impostor, ledger=ledger, bind_accounts=True, **THREE)
    assert sum("the account 'A' belongs to another node" in text for text in messages(caplog)) == 3
    assert ledger.balance("A") == balance


def test_a_returning_agent_keeps_its_account():
    ledger = Ledger.open()
    play(ledger=ledger, bind_accounts=True)
    balances = ledger.balances()
    assert balances["A"] != 100_000_000
    play(ledger=ledger, bind_accounts=True, first_round=9)
    assert ledger.balances() == balances
    assert settled(ledger)


def test_a_late_agent_gets_a_seat_an_account_and_its_own_model(without):
    early = tamper_with("C", TRAIN, silent, market_round=0)

    def late(name, message, reply):
        return early(name, message, reply) if int(message.metadata.group_id) < 3 else reply

    strategy, grid, ledger = play(late, num_server_rounds=5, **THREE)
    assert [result.round for result in strategy.history.results["C"]] == [3, 4, 5]
    assert ledger.balance("C") > 0
    assert not any(message.content.array_records for message in grid.sent(TRAIN, "C")), "its own initial model"
    assert {deal.round for deal, _ in ledger.deals() if "C" in (deal.buyer, deal.seller)} <= {3, 4, 5}
