"""Information in the messages of a run: agents learn no more than the protocol allows."""

import logging
import os

import pytest
import torch

from fl_market.ledger import ENDOWMENT, ESCROW, Ledger
from fl_market.market import round as trading
from fl_market.protocol import DELIVERY, OFFER, QUOTE
from fl_market.run_folder import LEDGER, ledger_url
from tests.played import EVALUATE, TRAIN, Purchases, configured, play

pytestmark = pytest.mark.flower

THREE = {"agents": 3, "partition": "dirichlet(0.5)", "num_server_rounds": 5, "learning_rate": 0.05}
TOLD = {
    TRAIN: {"config": {"server-round", "initialisation", "register", "model-digest"}},
    OFFER: {
        "config": {"server-round"},
        "offers": {"id", "seller", "layers", "alpha", "gain", "lower_bound", "after", "level_before", "level_after"},
    },
    QUOTE: {
        "config": {"server-round"},
        "quotes": {"id", "layers", "alpha", "beta", "gain"},
        "prices": {"amount"},
    },
    DELIVERY: {"config": {"server-round"}, "delivery": {"model-digest"}},
    EVALUATE: {
        "config": {"server-round", "model-digest"},
        "key": {"key"},
        "head": {"size", "root", "key", "signature"},
        "receipts": {"deal", "side", "partner", "price"},
    },
}
"""Message type -> record -> fields: all that the broker may send."""
SAID = {
    TRAIN: {"agent": {"name"}, "acknowledgement": {"model-digest"}, "profile": {"labels", "class-weights"}},
    OFFER: {"agent": {"name"}, "bids": {"offer", "amount"}},
    QUOTE: {"agent": {"name"}, "asks": {"quote", "amount"}},
    DELIVERY: {"agent": {"name"}, "acknowledgement": {"sealed-digest"}},
    EVALUATE: {"agent": {"name"}, "acknowledgement": {"model-digest"}},
}
"""The same for the agents' replies, which also carry metrics and their own parameters."""


def values(record):
    for value in record.values():
        yield from value if isinstance(value, list) else [value]


def numbers(content):
    """Return the gains and micro-credits in a message: no counters, weights or flags."""
    return {
        value
        for record in content.config_records.values()
        for value in values(record)
        if isinstance(value, (int, float))
        and not isinstance(value, bool)
        and value  # a gain of 0 is no balance of 0
        and (value > 1000 or isinstance(value, float))
    }


@pytest.fixture(scope="module", params=[("sealed", "all"), ("sharp", "all"), ("sealed", "0,1")])
def market(request):
    """Return a market that tells exact gains: one digit would be that of many agents by chance."""
    disclosure, layers = request.param
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trading, "told", lambda number: number)
        strategy, grid, ledger = play(disclosure=disclosure, layers=layers, max_purchases=2, **THREE)
    assert len(ledger.deals()) > 5
    return strategy, grid, ledger, disclosure, layers


def test_messages_hold_only_what_the_protocol_allows(market):
    _, grid, *_ = market
    for _, message, reply in grid.seen:
        for content, allowed in ((message.content, TOLD), (reply.content, SAID)):
            known = allowed[message.metadata.message_type]
            assert set(content.config_records) <= set(known)
            for name, record in content.config_records.items():
                assert set(record) <= known[name]
        assert len(message.content.metric_records) == 0


def test_no_message_names_another_agent(market):
    strategy, grid, *_ = market
    for agent, message, _ in grid.seen:
        others = [name for name in "ABC" if name != agent]
        nodes = [str(seat.node) for seat in strategy.seats if seat.name != agent]
        texts = [text for record in message.content.config_records.values() for text in values(record)]
        for text in (text for text in texts if isinstance(text, str)):
            parts = text.replace("+", "/").split("/")
            assert not {*others, *nodes} & set(parts)
            assert not any(name in text for name in (ENDOWMENT, ESCROW))


def test_no_message_holds_another_agents_gain_bid_ask_or_balance(market):
    """Both sides of a deal learn its price; every seller learns the prices of past deals."""
    _, grid, ledger, disclosure, _ = market
    deals = [deal for deal, _ in ledger.deals()]
    for agent, message, _ in grid.seen:
        market_round = int(message.metadata.group_id)
        told = numbers(message.content)
        own = {number for deal in deals if deal.buyer == agent for number in (deal.gain, deal.lower_bound, deal.alpha)}
        public = {deal.price for deal in deals if deal.round < market_round or agent in (deal.buyer, deal.seller)}
        foreign = {
            number
            for deal in deals
            for number in (
                *((deal.gain, deal.lower_bound, deal.bid) if deal.buyer != agent else ()),
                *((deal.ask,) if deal.seller != agent else ()),
            )
        }
        assert not told & (foreign - own - public), message.metadata.message_type
        assert not told & {balance for name, balance in ledger.balances().items() if name != agent}
        if message.metadata.message_type == QUOTE and disclosure == "sealed":
            assert not any(isinstance(number, float) for number in told)


def test_agents_are_told_one_digit_of_a_gain():
    _, grid, ledger = play(disclosure="sharp")
    assert ledger.deals()
    offered = [message.content["offers"] for message in grid.sent(OFFER)]
    numbers = [number for columns in offered for name in ("gain", "lower_bound") for number in columns[name]]
    numbers += [gain - 1 for message in grid.sent(QUOTE) for gain in message.content["quotes"]["gain"]]
    numbers += [number for deal, _ in ledger.deals() for number in (deal.gain, deal.lower_bound)]
    assert all(float(f"{number:.0e}") == pytest.approx(number, rel=1e-9) for number in numbers)


def test_only_buyers_receive_parameters_and_only_purchased_ones(market):
    """A buyer receives its merged model; layers that it did not buy equal its own bit by bit."""
    _, grid, ledger, _, layers = market
    trained, purchases = {}, Purchases()
    bought = {(deal.round, deal.buyer) for deal, _ in ledger.deals()}
    sent = set()
    for agent, message, reply in grid.seen:
        market_round = int(message.metadata.group_id)
        if message.metadata.message_type == TRAIN:
            trained[market_round, agent] = reply.content["arrays"].to_torch_state_dict()
        sealed = message.metadata.message_type == DELIVERY
        assert list(message.content.array_records) == (["sealed"] if sealed else [])
        state = purchases.opened(agent, message)
        if state is None:
            continue
        assert message.metadata.message_type == EVALUATE
        sent.add((market_round, agent))
        own = trained[market_round, agent]
        assert any(not torch.equal(state[name], own[name]) for name in own)
        if layers == "0,1":
            assert all(torch.equal(state[name], own[name]) for name in own if name[0] not in "13")
        for (number, other), foreign in trained.items():
            if number == market_round and other != agent:
                assert not any(torch.equal(state[name], foreign[name]) for name in own if foreign[name].numel() > 1)
    assert sent == bought


def test_ledger_errors_hold_no_passwords(monkeypatch, caplog):
    from fl_market.errors import MarketError

    monkeypatch.setenv(LEDGER, "postgresql+psycopg://broker:hunter2@127.0.0.1:1/market?connect_timeout=1")
    assert ledger_url(configured()) == os.environ[LEDGER]
    assert LEDGER not in str(configured().to_mapping()), "agents are told the options"
    with caplog.at_level(logging.DEBUG), pytest.raises(MarketError) as caught:
        Ledger.open(ledger_url(configured()))
    assert "cannot be opened" in str(caught.value)
    with pytest.raises(MarketError) as wrong:
        Ledger.open("hunter2:no url")
    assert "hunter2" not in str(caught.value) + str(wrong.value) + caplog.text
