"""All branches of a market round, over a grid in this process."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord

from clients.client_app import app
from fl_market.broker import Terms
from fl_market.errors import MarketError
from fl_market.ledger import ENDOWMENT, ESCROW, DealState, Ledger, read_receipts, reconcile, rewritten
from fl_market.ledger.receipts import heads_in
from fl_market.protocol import DELIVERY, OFFER, QUOTE
from fl_market.runner.engines import run_inline
from fl_market.runner.inline_grid import InlineGrid
from strategies import ParameterMarket
from strategies.server_app import run_arm
from tests.played import EVALUATE, TRAIN, Purchases, SpiedGrid, broken, changed, configured, play, settled, tamper_with
from tests.terms import PUBLISHED

pytestmark = pytest.mark.flower

ALL = [(2, "A"), (2, "B"), (3, "A"), (3, "B")]


def test_a_complete_market():
    strategy, grid, ledger = play()
    assert settled(ledger) == ALL
    for deal, _ in ledger.deals():
        assert deal.ask <= deal.price == (deal.bid + deal.ask) // 2 <= deal.bid
        assert 0 < deal.lower_bound <= deal.gain
    balances = ledger.balances()
    assert balances["A"] + balances["B"] == 200_000_000 == -balances[ENDOWMENT]
    assert {name: len(rounds) for name, rounds in strategy.history.results.items()} == {"A": 3, "B": 3}
    counts = {kind: len(grid.sent(kind)) for kind in (TRAIN, OFFER, QUOTE, EVALUATE)}
    assert counts == {TRAIN: 6, OFFER: 4, QUOTE: 4, EVALUATE: 6}


def test_parameters_are_sent_only_if_they_differ():
    """Only deliveries have parameters: no copy was lost, and a key is no parameter."""
    _, grid, _ = play()
    for kind in (TRAIN, OFFER, QUOTE, EVALUATE):
        assert not any(message.content.array_records for message in grid.sent(kind))
    assert [int(message.metadata.group_id) for message in grid.sent(DELIVERY)] == [2, 2, 3, 3]
    assert [int(m.metadata.group_id) for m in grid.sent(EVALUATE) if "key" in m.content] == [2, 2, 3, 3]


def test_offers_and_quotes_name_the_traded_layers():
    _, grid, ledger = play(layers="0,1")
    assert settled(ledger)
    offers = [message.content["offers"] for message in grid.sent(OFFER)]
    quotes = [message.content["quotes"] for message in grid.sent(QUOTE)]
    assert {name for part in offers + quotes for name in part["layers"]} == {"1,3"}


def test_offers_and_quotes_are_private_and_hold_only_fields_of_the_protocol():
    _, grid, _ = play()
    for agent, message, _ in grid.seen:
        if message.metadata.message_type == OFFER:
            assert set(message.content["offers"]) == {
                "id",
                "seller",
                "layers",
                "alpha",
                "gain",
                "lower_bound",
                "after",
                "level_before",
                "level_after",
            }
            assert all(name.startswith("agent-") for name in message.content["offers"]["seller"])
        if message.metadata.message_type == QUOTE:
            assert set(message.content["quotes"]) == {"id", "layers"}
        if "receipts" in message.content:
            assert sorted(message.content["receipts"]["side"]) == ["bought", "sold"]
            assert agent not in message.content["receipts"]["partner"]
    records = [id(message.content) for _, message, _ in grid.seen]
    assert len(set(records)) == len(records), "no record is shared between nodes"


@pytest.mark.parametrize("policy", ["sealed", "paper", "sharp"])
def test_quote_requests_follow_the_disclosure_policy(policy):
    _, grid, ledger = play(disclosure=policy)
    quotes = [(agent, message.content["quotes"]) for agent, message, _ in grid.seen if "quotes" in message.content]
    assert quotes
    for seller, told in quotes:
        if policy == "sealed":
            assert set(told) == {"id", "layers"}
            continue
        assert set(told) == {"id", "layers", "alpha", "beta", "gain"}
        buyers_gains = {deal.gain for deal, _ in ledger.deals() if deal.seller == seller}
        assert not buyers_gains & set(told["gain"]), "the buyer's own gain is never told"
        assert all(0 <= weight <= 1 for weight in told["alpha"] + told["beta"])
    if policy != "sealed":
        by_round = {(deal.round, deal.seller): deal.alpha for deal, _ in ledger.deals()}
        for agent, message, _ in grid.seen:
            key = int(message.metadata.group_id), agent
            if "quotes" in message.content and key in by_round:
                assert message.content["quotes"]["beta"] == [by_round[key]]


def test_sellers_receive_past_prices_without_names():
    _, grid, ledger = play(num_server_rounds=4)
    for message in grid.sent(QUOTE):
        before = [deal.price for deal, _ in ledger.deals() if deal.round < int(message.metadata.group_id)]
        assert set(message.content) == {"config", "quotes", "prices"}
        assert list(message.content["prices"].get("amount", [])) == before


def test_sellers_learn_from_their_own_quotes_while_they_trade():
    options = {"num_server_rounds": 10, "prior": "exponential(100)", "local_epochs": 1}
    grids = {learns: play(learn_prior=learns, **options)[1] for learns in (False, True)}
    asks = {
        learns: [reply.content["asks"]["amount"][0] for *_, reply in grid.seen if reply.content.get("asks")]
        for learns, grid in grids.items()
    }
    assert set(asks[False]) == {10_000}
    assert asks[True][:2] == [10_000] * 2, "nothing to learn from yet"
    assert len(set(asks[True])) > 2


def test_other_pricing_rules_set_other_prices():
    prices = {}
    for rule in ("ask", "posted(0.001)"):
        _, _, ledger = play(pricing=rule, num_server_rounds=2)
        prices[rule] = [(deal.bid, deal.ask, deal.price) for deal, _ in ledger.deals()]
        assert prices[rule]
    assert all(price == ask for _, ask, price in prices["ask"])
    assert all(price == 1000 for *_, price in prices["posted(0.001)"])


def test_the_free_market_has_no_quotes_and_no_payments():
    _, grid, ledger = play(strategy="market")
    assert grid.sent(QUOTE) == []
    assert settled(ledger) == ALL
    assert all(deal.price == 0 for deal, _ in ledger.deals())
    assert ledger.balance("A") == ledger.balance("B") == 100_000_000


def test_before_the_first_round_of_trading_agents_only_train():
    _, grid, ledger = play(first_round=4)
    assert grid.sent(OFFER) == []
    assert ledger.deals() == []


def test_offers_of_a_round_do_not_depend_on_its_trades():
    """B's offers in round 2 are the same whether or not A buys in that round."""
    _, grid, _ = play(num_server_rounds=2)
    decline = tamper_with("A", OFFER, lambda message, reply: changed(reply, bids=ConfigRecord({})))
    _, other, _ = play(decline, num_server_rounds=2)
    offers = [g.sent(OFFER, "B")[0].content["offers"] for g in (grid, other)]
    for key in ("alpha", "gain", "lower_bound"):
        assert offers[0][key] == offers[1][key]


def unreadable(message, reply):
    arrays = dict(reply.content["arrays"].items())
    arrays["1.weight"] = Array(dtype="float32", shape=(32, 784), stype="numpy.ndarray", data=b"not an array")
    return changed(reply, arrays=ArrayRecord(arrays))


def two_sets(message, reply):
    return changed(reply, more=ArrayRecord([np.zeros(3)]))


def nameless(message, reply):
    return changed(reply, agent=ConfigRecord({}))


def impostor(message, reply):
    return changed(reply, agent=ConfigRecord({"name": "A"}))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (broken(lambda state: state.pop("9.bias")), "lack '9.bias'"),
        (broken(lambda state: state.update(extra=torch.zeros(1))), "contain 'extra'"),
        (unreadable, "cannot be read"),
        (two_sets, "must have one set of parameters; got 2"),
        (nameless, "lacks the text 'name'"),
        (impostor, "claims to be agent A"),
        (lambda message, reply: Message(Error(1, "it broke"), reply_to=message), "it broke"),
        (lambda message, reply: None, "no answer in time"),
    ],
)
def test_an_invalid_training_reply_excludes_only_its_sender(change, complaint, caplog):
    with caplog.at_level(logging.WARNING, "flwr"):
        strategy, _, ledger = play(tamper_with("B", TRAIN, change), agents=4)
    lines = [record.getMessage() for record in caplog.records if complaint in record.getMessage()]
    assert len(lines) == 2, [record.getMessage() for record in caplog.records]
    assert all(strategy.broker.state.pseudonyms["B"] in line and "goes on without it" in line for line in lines)
    assert settled(ledger) == [(market_round, agent) for market_round in (2, 3) for agent in "ACD"]
    assert [result.round for result in strategy.history.results["B"]] == [1]


def test_an_agent_that_lost_its_copy_receives_the_brokers_record():
    """After an error in round 2, the broker does not know which model B holds."""

    def once(message, reply):
        return Message(Error(1, "gone"), reply_to=message) if message.metadata.group_id == "2" else reply

    _, grid, ledger = play(tamper_with("B", TRAIN, once))
    carrying = [m.metadata.group_id for m in grid.sent(TRAIN, "B") if m.content.array_records]
    assert carrying == ["3"]
    assert settled(ledger) == [(3, "A"), (3, "B")]


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"offer": ["x"], "amount": [5]}, "not one of its own"),
        ({"offer": ["x"]}, "must have the fields"),
        ({"offer": ["x"], "amount": [float("nan")]}, "must be of type int; got nan"),
    ],
)
def test_an_invalid_bid_is_ignored(columns, complaint, caplog):
    tamper = tamper_with("A", OFFER, lambda message, reply: changed(reply, bids=ConfigRecord(columns)))
    with caplog.at_level(logging.WARNING, "flwr"):
        strategy, _, ledger = play(tamper)
    assert any(
        strategy.broker.state.pseudonyms["A"] in r.getMessage() and complaint in r.getMessage() for r in caplog.records
    )
    assert settled(ledger) == [(2, "B"), (3, "B")]


@pytest.mark.parametrize(
    "change",
    [
        lambda message, reply: changed(reply, asks=ConfigRecord({"quote": ["x"], "amount": [0]})),
        lambda message, reply: changed(reply, asks=ConfigRecord({"quote": ["x"], "amount": ["0"]})),
        lambda message, reply: None,
    ],
)
def test_no_deal_without_a_valid_ask(change):
    _, _, ledger = play(tamper_with("B", QUOTE, change))
    assert settled(ledger) == [(2, "B"), (3, "B")]


@pytest.mark.parametrize(
    "change",
    [
        lambda message, reply: None,
        lambda message, reply: changed(reply, acknowledgement=ConfigRecord({"sealed-digest": "0" * 64})),
        lambda message, reply: changed(reply, acknowledgement=ConfigRecord({})),
    ],
)
def test_a_buyer_without_a_valid_acknowledgement_is_refunded_and_keeps_its_model(change):
    strategy, grid, ledger = play(tamper_with("A", DELIVERY, change, market_round=3))
    assert settled(ledger) == [(2, "A"), (2, "B"), (3, "B")]
    assert [d.buyer for d, state in ledger.deals() if state is DealState.REFUNDED] == ["A"]
    own = next(
        m for a, m, r in grid.seen if a == "A" and m.metadata.message_type == TRAIN and m.metadata.group_id == "3"
    )
    trained = next(r for a, m, r in grid.seen if m is own).content["arrays"].to_torch_state_dict()
    assert all(torch.equal(strategy.broker.state.models["A"][name], tensor) for name, tensor in trained.items())


@pytest.mark.parametrize(
    "change",
    [
        lambda message, reply: changed(reply, metrics=MetricRecord({})),
        lambda message, reply: changed(reply, metrics=MetricRecord({"test-accuracy": [1.0], "test-loss": [0.0]})),
        lambda message, reply: changed(reply, agent=ConfigRecord({"name": "A"})),
    ],
)
def test_invalid_or_false_metrics_have_no_effect(change):
    strategy, _, ledger = play(tamper_with("B", EVALUATE, change))
    assert settled(ledger) == ALL
    assert [result.round for result in strategy.history.results["A"]] == [1, 2, 3]
    clean, *_ = play()
    assert strategy.history.results["A"] == clean.history.results["A"]


def test_agents_cannot_claim_the_markets_own_accounts(caplog):
    claim = tamper_with("B", TRAIN, lambda m, reply: changed(reply, agent=ConfigRecord({"name": "market/escrow"})), 1)
    with caplog.at_level(logging.WARNING, "flwr"):
        _, _, ledger = play(claim)
    assert set(ledger.balances()) == {"A", ENDOWMENT, ESCROW}
    assert any("got 'market/escrow'" in record.getMessage() for record in caplog.records)


def test_a_single_agent_does_not_trade():
    _, grid, ledger = play(tamper_with("B", TRAIN, lambda message, reply: None, market_round=1))
    assert ledger.deals() == []
    assert grid.sent(OFFER) == []


@pytest.mark.parametrize("reorder", [lambda replies: replies[::-1], lambda replies: sorted(replies, key=id)])
@pytest.mark.parametrize("strategy", ["market-priced", "fedavg", "fedavg-late"])
def test_the_order_of_replies_has_no_effect(reorder, strategy):
    configuration = configured(strategy=strategy, agents=3, num_server_rounds=4)
    results = []
    for order in (None, reorder):
        document = run_arm(SpiedGrid(configuration, reorder=order), configuration).as_json()
        document.pop("seconds")
        results.append(document)
    assert results[0] == results[1]


def test_too_few_agents_raise_a_clear_error():
    configuration = configured(agents=3, connect_timeout=0.1)
    grid = InlineGrid(app, 2, configuration.to_mapping())
    for strategy in ("market", "fedavg", "siloed"):
        with pytest.raises(MarketError, match=r"only 2 of 3 agents connected within 0\.1 s"):
            run_arm(grid, configured(agents=3, connect_timeout=0.1, strategy=strategy))


def test_the_public_strategy_needs_only_a_broker(mlp):
    from fl_market.broker import Broker

    data = torch.randn(8, 12), torch.randint(0, 3, (8,))
    strategy = ParameterMarket(Broker(mlp, torch.nn.CrossEntropyLoss(reduction="none"), data, data))
    strategy.summary()
    assert strategy.aggregate_train(1, []) == (None, None)
    assert strategy.aggregate_evaluate(1, []) is None


def test_random_parameters_are_not_offered():
    """B's parameters are noise in round 4, and A is well trained."""

    def noise(state):
        for tensor in state.values():
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)))

    tamper = tamper_with("B", TRAIN, broken(noise), market_round=4)
    # at 95 %, one purchase in twenty without any gain may be certified
    _, grid, ledger = play(tamper, num_server_rounds=5, first_round=4, local_epochs=4, confidence=0.999)
    assert grid.sent(OFFER, "A") == []
    assert "A" not in {buyer for _, buyer in settled(ledger)}


def test_common_initialisation_is_common():
    _, grid, _ = play(strategy="market", common_init=True, num_server_rounds=1, learning_rate=1e-12)
    replies = [
        reply.content["arrays"].to_torch_state_dict() for _, m, reply in grid.seen if m.metadata.message_type == TRAIN
    ]
    for name, tensor in replies[0].items():
        torch.testing.assert_close(tensor, replies[1][name])


def test_the_inline_engine_reports_every_round():
    reports = []
    result = run_inline(configured(strategy="market"), reports.append)
    assert [(report.arm, report.round, report.rounds) for report in reports] == [("market", i, 3) for i in (1, 2, 3)]
    assert reports[-1].deals == result.deals == 4


THREE = {"agents": 3, "partition": "dirichlet(0.1)", "num_server_rounds": 8, "learning_rate": 0.05}


def test_the_market_serves_different_targets_better_than_a_common_model():
    market, common = (run_inline(configured(strategy=arm, profile="own", **THREE)) for arm in ("market", "fedavg"))
    for name in "ABC":
        own, shared = (result.agents[name].rounds[-1].target_accuracy for result in (market, common))
        assert own > shared, name
    assert market.deals
    assert len({result.rounds[-1].test_accuracy for result in market.agents.values()}) == 3, "no collapse"


def test_profiles_can_name_target_classes():
    result = run_inline(configured(strategy="siloed", profile="7,8", num_server_rounds=1))
    last = result.agents["A"].rounds[-1]
    assert last.target_accuracy != last.test_accuracy
    with pytest.raises(MarketError, match=r"agents A, B finished no round of market; .*got class 12"):
        run_inline(configured(strategy="market", profile="12", num_server_rounds=1))


INPUTS, TARGETS = torch.zeros(200, 1, 28, 28), torch.arange(200) % 9


@pytest.mark.parametrize(
    ("profile", "validation"),
    [
        ({"class-weights": [1.0]}, None),
        ({"class-weights": [float("nan")] * 10}, None),
        ({"class-weights": [0.0] * 10}, None),
        ({"class-weights": "all"}, None),
        ({"class-weights": [1] * 10}, None),
        ({"labels": [1, 0]}, None),
        ({"labels": [3, 3]}, None),
        ({"labels": [9, 10]}, None),
        ({"labels": [-1, 2]}, None),
        ({"labels": "all"}, None),
        ({"labels": [0.0, 1.0]}, None),
        ({}, {"inputs": INPUTS}),
        ({}, {"inputs": INPUTS[:199], "targets": TARGETS[:199]}),
        ({}, {"inputs": INPUTS, "targets": TARGETS[:3]}),
        ({}, {"inputs": INPUTS[:, :, 1:], "targets": TARGETS}),
        ({}, {"inputs": INPUTS / 0, "targets": TARGETS}),
        ({}, {"inputs": INPUTS, "targets": TARGETS + 2}),
        ({}, {"inputs": INPUTS, "targets": TARGETS - 1}),
        ({}, {"inputs": INPUTS, "targets": TARGETS.float()}),
    ],
)
def test_an_agent_gets_a_seat_only_with_a_valid_profile(profile, validation, caplog):
    def tamper(name, message, reply):
        if name == "A" and message.metadata.message_type == TRAIN and message.metadata.group_id in "12":
            assert message.content["config"]["register"]
            reply.content["profile"] = ConfigRecord(profile)
            if validation is not None:
                reply.content["validation"] = ArrayRecord(dict(validation))
        return reply

    with caplog.at_level(logging.WARNING, logger="flwr"):
        _, _, ledger = play(tamper=tamper)
    assert settled(ledger) == [(3, "A"), (3, "B")]
    assert caplog.text.count("the round goes on without it") == 2


LABELS = {"labels": "0,1,2,3,4,5,6;3,4,5,6,7,8,9", "num_server_rounds": 6, "learning_rate": 0.05, "first_round": 2}


def test_agents_with_different_label_spaces_trade_shared_layers_and_keep_their_heads():
    heads = {}

    def tamper(name, message, reply):
        if message.metadata.message_type == TRAIN:
            heads[name] = reply.content["arrays"]["9.weight"].numpy()
        if (delivered := purchases.opened(name, message)) is not None:
            assert delivered["9.weight"].shape == (7, 16)
            np.testing.assert_array_equal(delivered["9.weight"].numpy(), heads[name])
            changed_layers.add(name)
        return reply

    changed_layers, purchases = set(), Purchases()
    _, grid, ledger = play(tamper=tamper, **LABELS)
    assert {deal.buyer for deal, _ in ledger.deals()} == changed_layers != set()
    offered = {layers for message in grid.sent(OFFER) for layers in message.content["offers"]["layers"]}
    assert offered == {"1,3,5,7"}


def test_agents_with_different_label_spaces_gain_and_cannot_be_averaged():
    alone, market = (run_inline(configured(strategy=arm, **LABELS)) for arm in ("siloed", "market-fine"))
    losses = [[agent.rounds[-1].test_loss for agent in result.agents.values()] for result in (alone, market)]
    assert sum(losses[1]) < sum(losses[0])
    with pytest.raises(MarketError, match="averages whole models"):
        run_inline(configured(strategy="fedavg", **LABELS))


def spent_by(ledger, agent):
    return sum(deal.price for deal, state in ledger.deals() if state is DealState.SETTLED and deal.buyer == agent)


@pytest.mark.parametrize("kept", [False, True])
def test_an_agent_never_pays_more_than_its_own_limits(tmp_path, kept):
    """The limits are in its node configuration; the broker does not know them."""
    limits = {"purchase-limit": 0.05, "spending-limit": 0.12} | ({"agent-dir": str(tmp_path)} if kept else {})
    _, grid, ledger = play(num_server_rounds=7, node_config={1000: limits})
    bids = [reply.content["bids"]["amount"] for _, message, reply in grid.seen if bids_of(message, "A", grid)]
    assert [amount for some in bids for amount in some]
    assert all(0 <= amount <= 50_000 for some in bids for amount in some)
    assert 0 < spent_by(ledger, "A") <= 120_000 < spent_by(ledger, "B")
    if kept:
        assert (tmp_path / "A" / "model.safetensors").exists()
        receipts = read_receipts(tmp_path / "A" / "receipts.jsonl")
        assert reconcile("A", ledger.deals(), receipts) == []
        assert reconcile("B", ledger.deals(), receipts) != []
        heads = heads_in(receipts)
        assert len(heads) == len({entry["round"] for entry in receipts}), "one for each settlement"
        assert rewritten(heads, ledger.hashes()) == []
        assert rewritten(heads, reversed(ledger.hashes())) != []


def bids_of(message, agent, grid):
    return message.metadata.message_type == OFFER and grid.agent(message) == agent


def test_a_spending_limit_holds_across_runs(tmp_path):
    """The agent's disk outlives its node."""
    limits = {"spending-limit": 0.04, "agent-dir": str(tmp_path)}
    _, _, first = play(num_server_rounds=4, node_config={1000: limits})
    _, _, second = play(num_server_rounds=4, node_config={1000: limits})
    assert 0 < spent_by(first, "A") + spent_by(second, "A") <= 40_000


def test_an_agent_asks_at_least_its_reserve_price():
    _, grid, ledger = play(node_config={1000: {"reserve-price": 0.5}})
    asks = [
        a
        for _, message, reply in grid.seen
        if message.metadata.message_type == QUOTE
        for a in reply.content["asks"]["amount"]
        if grid.agent(message) == "A"
    ]
    assert set(asks) == {500_000}
    assert not [deal for deal, _ in ledger.deals() if deal.seller == "A" and deal.price < 500_000]


def test_a_buyer_may_register_its_own_validation_data():
    strategy, grid, _ = play(validation_samples=200, strategy="market", num_server_rounds=2)
    sent = [reply.content["validation"] for _, message, reply in grid.seen if "validation" in reply.content]
    assert [record["inputs"].shape for record in sent] == [(200, 1, 28, 28)] * 2, "once from each agent"
    trials = strategy.broker.try_before_purchase(strategy.broker.state.models)
    assert {trial.certificate.samples for trial in trials} == {100}


def test_a_reseller_sells_nothing(caplog):
    """It does not train, and returns the model that was delivered to it."""
    delivered, purchases = {}, Purchases()

    def tamper(name, message, reply):
        if name == "A" and (model := purchases.opened(name, message)) is not None:
            delivered.update(model)
        if name == "A" and message.metadata.message_type == TRAIN and delivered:
            reply.content["arrays"] = ArrayRecord(dict(delivered))
        return reply

    with caplog.at_level(logging.WARNING, logger="flwr"):
        _, _, ledger = play(tamper=tamper, num_server_rounds=4)
    assert {(deal.round, deal.seller) for deal, _ in ledger.deals()} >= {(2, "A"), (2, "B")}
    assert not [deal for deal, _ in ledger.deals() if deal.seller == "A" and deal.round > 2]
    assert "nothing to sell" in caplog.text


def test_a_buyer_may_buy_from_several_sellers_in_one_round():
    options = {"agents": 4, "partition": "shards(2)", "num_server_rounds": 4, "learning_rate": 0.05}
    _, grid, ledger = play(max_purchases=3, **options)
    bought = {}
    for deal, state in ledger.deals():
        assert state is DealState.SETTLED
        bought.setdefault((deal.round, deal.buyer), []).append(deal)
    assert max(map(len, bought.values())) > 1
    assert all(len({deal.seller for deal in deals}) == len(deals) <= 3 for deals in bought.values())
    for agent, message, reply in grid.seen:
        if message.metadata.message_type == OFFER and reply.content["bids"]:
            deals = bought.get((int(message.metadata.group_id), agent), [])
            assert sum(deal.price for deal in deals) <= sum(reply.content["bids"]["amount"])


# -- the default terms ----------------------------------------------------------------------------

DEFAULT = {name: getattr(Terms(), name) for name in PUBLISHED}
"""In place of the published terms with which these tests play."""
SMALL = {"train_samples": 600, "broker_samples": 300}


def no_bids(name, message, reply):
    return changed(reply, bids=ConfigRecord({})) if message.metadata.message_type == OFFER else reply


def test_agents_hold_the_served_model_without_a_purchase():
    """It is delivered with the evaluation, and training goes on from it without another message."""
    strategy, grid, ledger = play(no_bids, **DEFAULT, **SMALL, confidence=0.8, tuning_learning_rate=0.01)
    delivered = {
        (int(message.metadata.group_id), agent): next(iter(message.content.array_records.values()))
        for agent, message, _ in grid.seen
        if message.metadata.message_type == EVALUATE and message.content.array_records
    }
    assert ledger.deals() == []
    assert set(delivered) == set(ALL), "before the first round of trading there is no service"
    assert not any(message.content.array_records for message in grid.sent(TRAIN))
    for agent, record in strategy.broker.state.models.items():
        received = delivered[3, agent].to_torch_state_dict()
        assert all(torch.equal(record[name], tensor) for name, tensor in received.items())
    assert not any("receipts" in message.content for _, message, _ in grid.seen)


@pytest.mark.parametrize("restore", ["last", "always", "never"])
def test_the_round_in_which_best_models_are_given_back(restore, monkeypatch):
    """Every buyer has a best model from the start, which no training reaches."""
    from fl_market.market import incumbents

    best = {}
    certified = incumbents.incumbent_of

    def with_best(buyer, state, terms, **options):
        found = certified(buyer, state, terms, **options)
        best.setdefault("model", {name: 0.5 * tensor for name, tensor in state.items()})
        return replace(found, restored=best["model"])

    monkeypatch.setattr("fl_market.market.purchases.incumbent_of", with_best)
    terms = DEFAULT | {"service": "none", "restore": restore}
    strategy, grid, ledger = play(no_bids, **terms, **SMALL)
    assert ledger.deals() == []
    rounds = [int(message.metadata.group_id) for message in grid.sent(EVALUATE, "A") if message.content.array_records]
    assert rounds == {"last": [3], "always": [2, 3], "never": []}[restore]
    for model in strategy.broker.state.models.values():
        assert any(not torch.equal(model[name], best["model"][name]) for name in model), "the record is kept"
    carried = [int(message.metadata.group_id) for message in grid.sent(TRAIN, "A") if message.content.array_records]
    assert carried == ([3] if restore == "always" else []), "the next training starts from the record"


def test_a_round_does_not_read_the_whole_ledger(monkeypatch):
    """Its time would grow with the ledger's length."""

    def whole(ledger):
        raise AssertionError("all deals were read")

    monkeypatch.setattr(Ledger, "deals", whole)
    _, grid, _ = play(learn_prior=True)
    assert any("amount" in message.content["prices"] for message in grid.sent(QUOTE))
