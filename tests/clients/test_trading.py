from dataclasses import replace

import pytest
from flwr.app import Context, RecordDict

from clients.agent import Agent
from clients.agent_disk import AgentDisk
from clients.trading import ask, ask_disclosed, bid
from fl_market.configuration import Configuration
from fl_market.protocol import Ask, Bid, DisclosedQuote, Offer, QuoteRequest, Receipt
from fl_market.valuation import VALUATIONS

OFFERS = [Offer("a", "x", "all", 0.5, 0.4, 0.3, ""), Offer("b", "y", "all", 0.5, 0.2, 0.1, "a")]


def agent(**options):
    """Agent A at a new node."""
    node = {"partition-id": 0, "num-partitions": 2}
    return Agent.at(Context(1, 1, node, RecordDict(), Configuration.of(**options).to_mapping()))


def spend(buyer, amount):
    buyer.state.note_purchases([Receipt("1/x", "bought", "x", amount)])
    return buyer


def test_bids_follow_the_agent_s_scale_and_its_limit_for_one_purchase():
    assert bid(agent(bid_scale=2.0), OFFERS) == [Bid("a", 800_000), Bid("b", 400_000)]
    assert bid(agent(purchase_limit=0.3), OFFERS) == [Bid("a", 300_000), Bid("b", 200_000)]


def test_bids_keep_the_limit_of_all_purchases_together():
    assert bid(agent(spending_limit=0.5), OFFERS) == [Bid("a", 400_000), Bid("b", 100_000)]
    assert bid(spend(agent(spending_limit=0.5), 200_000), OFFERS) == [Bid("a", 300_000)]
    assert bid(spend(agent(spending_limit=0.5), 600_000), OFFERS) == []


@pytest.mark.parametrize(("number", "amount"), [(1, 50_000), (5, 250_000), (10, 400_000), (99, 400_000)])
def test_a_paced_agent_spends_an_equal_part_of_its_limit_in_each_round(number, amount):
    offers = [replace(OFFERS[0], id=f"{number}/x")]
    buyer = agent(spending_limit=0.5, spending_rounds=10)
    assert bid(buyer, offers) == [Bid(f"{number}/x", amount)]
    left = [one.amount for one in bid(spend(buyer, 50_000), offers)]
    assert left == {1: [], 5: [200_000], 10: [400_000], 99: [400_000]}[number]


def test_an_agent_with_a_disk_counts_what_earlier_runs_spent(tmp_path):
    AgentDisk(tmp_path / "A").note([Receipt("1/x", "bought", "x", 450_000)], run=7)
    assert bid(agent(spending_limit=0.5, agent_dir=str(tmp_path)), OFFERS) == [Bid("a", 50_000)]


def test_a_valuation_is_made_from_the_agent_s_scale(monkeypatch):
    monkeypatch.setitem(VALUATIONS, "gain", lambda bid_scale: lambda offer: bid_scale)
    assert bid(agent(bid_scale=0.7), OFFERS) == [Bid("a", 700_000), Bid("b", 700_000)]


def asked(seller, quotes=("q",)):
    return ask(seller, [QuoteRequest(quote, "all") for quote in quotes], [])


def test_asks_follow_the_prior_and_the_reserve_price():
    assert asked(agent(prior="uniform(0, 1)")) == [Ask("q", 500_000)]
    assert asked(agent(prior="uniform(0, 1)", reserve_price=0.6)) == [Ask("q", 600_000)]


def test_asks_on_disclosed_quotes_have_the_same_reserve_price():
    seller = agent(disclosure="sharp", reserve_price=0.6)
    quote = DisclosedQuote("q", "all", alpha=0.0, beta=1.0, gain=1.0)
    assert ask_disclosed(seller, [quote]) == [Ask("q", 600_000)]
    assert seller.state.quotes.asks == (600_000,), "the ask that was sent is remembered"


@pytest.mark.parametrize(("learn_prior", "amount"), [(False, 500_000), (True, 900_000)])
def test_an_agent_learns_its_prior_only_if_it_wants_to(learn_prior, amount):
    seller = agent(prior="uniform(0, 1)", learn_prior=learn_prior)
    quotes = [f"1/{number}" for number in range(5)]
    asked(seller, quotes)
    seller.state.quotes = seller.state.quotes.resolved([Receipt(quote, "sold", "x", 700_000) for quote in quotes])
    assert asked(seller) == [Ask("q", amount)], "five sales at the midpoint of 0.5 reveal bids of 0.9"
