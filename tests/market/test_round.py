"""The trading rules of one round, step by step and without messages."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fl_market.broker import Broker, Terms
from fl_market.errors import MarketError
from fl_market.gains import Certificate, Counted, ErrorBudget, value_weight
from fl_market.ledger import ESCROW, Deal, DealState, Ledger
from fl_market.market import settlement
from fl_market.market.outcome import Acknowledgement, Delivery
from fl_market.market.round import TradingRound
from fl_market.market.state import MarketState
from fl_market.market.trials import Trial
from fl_market.parameters import digest
from fl_market.protocol import Ask, Bid
from fl_market.sealing import unseal
from tests.terms import PUBLISHED

NAMES = ("A", "B", "C", "D")
MODELS = {name: {"w": torch.full((2,), float(place))} for place, name in enumerate(NAMES)}


def certificate(gain=0.5, lower_bound=0.1):
    return Certificate(gain, lower_bound, 0.95, 1.0, 1.0 - gain, 100)


def trial(buyer, seller, after=(), **certified):
    merged = {"w": MODELS[buyer]["w"] + 0.25 + sum(map(ord, (*after, seller)))}
    return Trial(buyer, seller, "all", 0.25, certificate(**certified), merged, tuple(after))


def opened(*trials, endowment=1000, state=None, **terms):
    """Return a round of four agents with the given trials."""
    ledger = Ledger.open()
    for name in NAMES:
        ledger.open_account(name, endowment)
    state = (state or MarketState(runs=("run",))).with_models(MODELS)
    return TradingRound(7, "run", Terms(**({"pricing": "nash"} | terms)), ledger, state, NAMES, trials)


def bid(trading, buyer, amounts, sellers=("B",)):
    """Return bids on an offer and its incremental purchases."""
    keys = {}
    for offer in trading.offers[buyer]:
        seller = next(name for name, known in trading.state.pseudonyms.items() if known == offer.seller)
        keys.setdefault(seller, []).append(offer)
    chosen = [next(o for o in keys[seller] if bool(o.after) == bool(place)) for place, seller in enumerate(sellers)]
    return [Bid(offer.id, amount) for offer, amount in zip(chosen, amounts, strict=True)]


def asked(bidding, amount):
    return {seller: [Ask(request.id, amount) for request in some] for seller, some in bidding.requests.items()}


def test_the_terms_withhold_the_purchased_weight():
    """From merged model, own model and α a buyer would know the seller's parameters."""
    assert [offer.alpha for offer in opened(trial("A", "B")).offers["A"]] == [0.25]
    assert [offer.alpha for offer in opened(trial("A", "B"), withhold_alpha=True).offers["A"]] == [0]


def bargained(trading, bids, ask=0):
    bidding = trading.accept_bids(bids)
    return bidding.accept_asks(asked(bidding, ask))


def settled(ledger):
    return [deal.id for deal, state in ledger.deals() if state is DealState.SETTLED]


def test_a_complete_round():
    trading = opened(trial("A", "B"))
    bidding = trading.accept_bids({"A": bid(trading, "A", [900])})
    assert {seller: len(some) for seller, some in bidding.requests.items()} == {"B": 1}
    bargain = bidding.accept_asks(asked(bidding, 101))
    ((deal, bought),) = bargain.deals["A"]
    assert (deal.id, deal.bid, deal.ask, deal.price) == ("run/7/A/B", 900, 101, 500), "the midpoint, rounded down"
    assert (deal.gain, deal.lower_bound, deal.alpha) == (0.5, 0.1, 0.25)
    assert trading.ledger.balances() | {"A": 500, ESCROW: 500} == trading.ledger.balances()
    sealed = bargain.deliver()
    assert set(sealed) == {"A"}
    assert bargain.conclude({}).state.sold == {}
    outcome = bargain.conclude({"A": sealed["A"].acknowledge()})
    assert outcome.state.sold == {"B": [MODELS["B"]]}, "a part of it left the broker: see novelty.py"
    deliveries = outcome.deliveries
    assert set(deliveries) == set(NAMES)
    assert deliveries["A"].model is bought.merged
    opened_by_key = unseal(sealed["A"].sealed, deliveries["A"].key)
    assert digest(opened_by_key) == sealed["A"].digest == deliveries["A"].digest == digest(bought.merged)
    assert [(r.side, r.price) for r in deliveries["B"].receipts] == [("sold", 500)]
    assert deliveries["C"] == Delivery()
    assert outcome.settled == ("run/7/A/B",)
    assert outcome.models["A"] is bought.merged
    assert settled(trading.ledger) == [], "a decision moves no money"
    settlement.apply(trading.ledger, outcome)
    settlement.apply(trading.ledger, outcome)
    assert trading.ledger.balance("B") == 1500
    assert trading.ledger.verify() == []


@pytest.mark.parametrize("answer", [None, Acknowledgement("0" * 64), "the model's digest", "another purchase's"])
def test_a_buyer_without_a_valid_acknowledgement_is_refunded_and_keeps_its_model(answer):
    trading = opened(trial("A", "B"))
    bargain = bargained(trading, {"A": bid(trading, "A", [900])})
    sealed = bargain.deliver()["A"]
    other = bargained(opened(trial("A", "B")), {"A": bid(trading, "A", [900])}).deliver()
    answer = {
        "the model's digest": Acknowledgement(sealed.digest),
        "another purchase's": other["A"].acknowledge() if other else Acknowledgement(""),
    }.get(answer, answer)
    outcome = bargain.conclude({"A": answer})
    assert (outcome.settled, outcome.refunded) == ((), ("run/7/A/B",))
    assert outcome.models["A"] is MODELS["A"]
    assert outcome.deliveries == dict.fromkeys(NAMES, Delivery()), "no key, no model, no receipt"
    assert outcome.state.delivered == outcome.state.receipts == {}
    assert [notice.agent for notice in outcome.notices] == ["A"]
    settlement.apply(trading.ledger, outcome)
    assert trading.ledger.balances() | dict.fromkeys(NAMES, 1000) == trading.ledger.balances()


def test_the_state_holds_a_merged_model_only_after_its_acknowledgement():
    trading = opened(trial("A", "B"))
    bargain = bargained(trading, {"A": bid(trading, "A", [900])})
    bargain.deliver()
    assert bargain.round.state.models["A"] is MODELS["A"]


def test_offers_are_private_certified_and_pseudonymous():
    trading = opened(trial("A", "B"), trial("A", "C", lower_bound=0.0), trial("B", "A"))
    assert {buyer: len(some) for buyer, some in trading.offers.items()} == {"A": 1, "B": 1}
    (offer,) = trading.offers["A"]
    assert offer.seller == trading.state.pseudonyms["B"] != "B"
    assert offer.id == f"7/{offer.seller}"


@pytest.mark.parametrize(
    ("bids", "complaint"),
    [
        ([Bid("7/agent-nobody", 5)], "not one of its own"),
        ([Bid("", 5)], "not one of its own"),
        ("two singles", "must be on one offer"),
        ("the same twice", "must be on one offer"),
        ("negative", "at least 0"),
        ("huge", "below"),
    ],
)
def test_an_invalid_bid_is_ignored_and_affects_no_other_agent(bids, complaint):
    trading = opened(trial("A", "B"), trial("A", "C"), trial("B", "C"))
    single = bid(trading, "A", [10])[0]
    bids = (
        {
            "two singles": [*bid(trading, "A", [10]), *bid(trading, "A", [10], ["C"])],
            "the same twice": [single, single],
            "negative": [replace(single, amount=-1)],
            "huge": [replace(single, amount=2**62)],
        }.get(bids, bids)
        if isinstance(bids, str)
        else bids
    )
    bidding = trading.accept_bids({"A": bids, "B": bid(trading, "B", [10], ["C"])})
    assert list(bidding.wanted) == ["B"]
    (notice,) = bidding.notices
    assert notice.agent == "A"
    assert complaint in notice.text


def test_a_bid_on_another_buyers_offer_is_ignored():
    trading = opened(trial("A", "B"), trial("C", "B"))
    theirs = bid(trading, "A", [10])
    assert trading.accept_bids({"D": theirs}).wanted == {}
    assert list(trading.accept_bids({"A": theirs}).wanted) == ["A"]


@pytest.mark.parametrize(
    "asks",
    [lambda key: [], lambda key: [Ask("x", 0)], lambda key: [Ask(key, 901)], lambda key: [Ask(key, -1)]],
)
def test_no_deal_without_a_valid_ask_up_to_the_bid(asks):
    trading = opened(trial("A", "B"), trial("B", "A"))
    bidding = trading.accept_bids({"A": bid(trading, "A", [900]), "B": bid(trading, "B", [900], ["A"])})
    good = asked(bidding, 100)
    bargain = bidding.accept_asks(good | {"B": asks(bidding.requests["B"][0].id)})
    assert list(bargain.deals) == ["B"]


def test_a_rule_without_asks_requests_no_quotes_and_free_deals_cost_nothing():
    trading = opened(trial("A", "B"), pricing="free")
    bidding = trading.accept_bids({"A": bid(trading, "A", [900])})
    assert bidding.requests == {}
    ((deal, _),) = bidding.accept_asks({}).deals["A"]
    assert deal.price == 0
    assert trading.ledger.state(deal.id) is DealState.ESCROWED


def test_a_purchase_beyond_the_balance_is_void():
    trading = opened(trial("A", "B"), endowment=400)
    bargain = bargained(trading, {"A": bid(trading, "A", [900])})
    assert bargain.deals == {}
    assert [state for _, state in trading.ledger.deals()] == [DealState.VOID]
    assert trading.ledger.balance("A") == 400


@pytest.mark.parametrize("disclosure", ["sealed", "paper", "sharp"])
def test_a_quote_request_follows_the_disclosure_policy(disclosure):
    own = replace(trial("B", "A", gain=0.2), alpha=0.75)  # a ratio of 1.25, told with one digit of the gain
    trading = opened(trial("A", "B"), own, disclosure=disclosure)
    (request,) = trading.accept_bids({"A": bid(trading, "A", [900])}).requests["B"]
    told = {"id": f"7/{trading.state.pseudonyms['A']}", "layers": "all"}
    if disclosure != "sealed":
        told |= {"alpha": 0.75, "beta": 0.25, "gain": pytest.approx(1.2)}
    assert vars(request) == told


def test_a_bundle_ends_before_its_first_purchase_without_an_ask():
    chain = trial("A", "B"), trial("A", "C", after=("B",)), trial("A", "D", after=("B", "C"))
    trading = opened(*chain)
    bidding = trading.accept_bids({"A": bid(trading, "A", [300, 200, 100], ["B", "C", "D"])})
    asks = asked(bidding, 50)
    bargain = bidding.accept_asks(asks)
    assert [(deal.seller, deal.price) for deal, _ in bargain.deals["A"]] == [("B", 175), ("C", 125), ("D", 75)]
    outcome = bargain.conclude({"A": bargain.deliver()["A"].acknowledge()})
    assert outcome.deliveries["A"].model is chain[-1].merged
    for missing, bought in (("B", []), ("C", ["B"]), ("D", ["B", "C"])):
        trading = opened(*chain, state=trading.state)
        bidding = trading.accept_bids({"A": bid(trading, "A", [300, 200, 100], ["B", "C", "D"])})
        left = {seller: some for seller, some in asked(bidding, 50).items() if seller != missing}
        assert [deal.seller for deal, _ in bidding.accept_asks(left).deals.get("A", ())] == bought


def test_a_bid_on_an_incremental_purchase_alone_is_ignored():
    trading = opened(trial("A", "B"), trial("A", "C", after=("B",)))
    (top,) = [offer for offer in trading.offers["A"] if offer.after]
    bidding = trading.accept_bids({"A": [Bid(top.id, 10)]})
    assert bidding.wanted == {}
    assert "must be on one offer" in bidding.notices[0].text


def test_receipts_come_again_until_they_are_confirmed():
    trading = opened(trial("A", "B"))
    _, first = concluded(trading, {"A": bid(trading, "A", [900])})
    again = replace(trading, number=8, state=first.state.without_receipts(["A"]))
    _, second = concluded(again, {"A": bid(again, "A", [500])})
    assert [receipt.round for receipt in second.deliveries["A"].receipts] == [8]
    assert [receipt.round for receipt in second.deliveries["B"].receipts] == [7, 8]
    assert second.state.without_receipts(NAMES).receipts == {}


def test_the_state_keeps_the_last_deliveries():
    state = MarketState()
    for model in (*MODELS.values(), *MODELS.values()):
        state = state.with_delivery("A", model)
    assert [model is known for model, known in zip(state.delivered["A"], list(MODELS.values())[1:], strict=True)]


def test_public_prices_are_those_of_paid_deals():
    trading = opened(trial("A", "B"), trial("C", "D"))
    bargain = bargained(trading, {"A": bid(trading, "A", [100]), "C": bid(trading, "C", [50], ["D"])})
    deliveries = bargain.deliver()
    settlement.apply(trading.ledger, bargain.conclude({"A": deliveries["A"].acknowledge()}))
    bidding = replace(trading, number=8).accept_bids({})
    assert [price.amount for price in bidding.public_prices] == [50]


def test_money_that_circles_between_two_agents_makes_few_public_prices():
    """A and B pay each other 900 in each of twenty rounds; what C pays D stays visible."""
    trading = opened(trial("A", "B"), trial("B", "A"), trial("C", "D"))
    for number in range(1, 21):
        bids = {"A": bid(trading, "A", [900], ["B"]), "B": bid(trading, "B", [900], ["A"])}
        if number <= 3:
            bids["C"] = bid(trading, "C", [40], ["D"])
        trading = replace(trading, number=number)
        bids = {
            buyer: [Bid(offer.id, some[0].amount) for offer in trading.offers[buyer]] for buyer, some in bids.items()
        }
        bargain = bargained(trading, bids)
        outcome = bargain.conclude({name: one.acknowledge() for name, one in bargain.deliver().items()})
        settlement.apply(trading.ledger, outcome)
    prices = [price.amount for price in replace(trading, number=21).accept_bids({}).public_prices]
    assert prices == [20] * 3 + [450] * 5


def test_purchases_on_approval_make_no_public_price():
    trading = opened(approved("A", "B"))
    _, outcome = concluded(trading, {"A": bid(trading, "A", [0])})
    settlement.apply(trading.ledger, outcome)
    assert replace(trading, number=8).accept_bids({}).public_prices == []


def test_only_the_own_open_deals_of_a_lost_round_are_ended():
    trading = opened(trial("A", "B"), trial("B", "C"), trial("C", "A"))
    bids = {buyer: bid(trading, buyer, [100], [seller]) for buyer, seller in (("A", "B"), ("B", "C"))}
    bargained(trading, bids).deliver()
    other = Deal("other/7/C/A", 7, "C", "A", 100, 0, 50, 0.5, 0.1, 0.25)
    settlement.escrow(trading.ledger, other)
    settlement.end_open_deals(trading.ledger, ["run"])
    states = {deal.id: state for deal, state in trading.ledger.deals()}
    assert states == {
        "run/7/A/B": DealState.REFUNDED,
        "run/7/B/C": DealState.REFUNDED,
        "other/7/C/A": DealState.ESCROWED,
    }


def test_the_order_of_mappings_has_no_effect():
    trials = trial("A", "B"), trial("B", "C"), trial("C", "A")
    books = []
    for order in (1, -1):
        trading = opened(*trials)
        bids = {buyer: bid(trading, buyer, [100], [s]) for buyer, s in (("A", "B"), ("B", "C"), ("C", "A"))}
        bidding = trading.accept_bids(dict(list(bids.items())[::order]))
        bargain = bidding.accept_asks(dict(list(asked(bidding, 10).items())[::order]))
        bargain.deliver()
        books.append([(entry.step, entry.deal, entry.amount) for entry in trading.ledger.entries()])
    assert books[0] == books[1]


# -- progress, approval and what is free of charge ------------------------------------------------


def priced(buyer, seller, gain=0.37, after=()):
    """Return a purchase with certified progress."""
    return replace(trial(buyer, seller, after), progress=certificate(gain, gain / 2), promise=0.16)


def approved(buyer, seller, after=()):
    """Return a promising purchase without certified progress."""
    return replace(priced(buyer, seller, after=after), progress=certificate(0.2, 0.0))


def told_of(*gains, possible=12, others=0):
    """Return the budget of a run after a round with some priced offers, which were not foreseen."""
    weight = math.prod(map(value_weight, gains))
    return ErrorBudget().after(Counted(), Counted(possible, len(gains) + others), weight)


def concluded(trading, bids, ask=0, acknowledged=True):
    bargain = bargained(trading, bids, ask)
    answers = {name: one.acknowledge() if acknowledged else None for name, one in bargain.deliver().items()}
    return bargain, bargain.conclude(answers)


def test_a_purchase_has_the_price_of_its_progress():
    trading = opened(priced("A", "B"))
    assert [offer.gain for offer in trading.offers["A"]] == [0.3], "one digit of the progress"
    assert [offer.lower_bound for offer in trading.offers["A"]] == [0.1], "that on the fit split"
    bargain, outcome = concluded(trading, {"A": bid(trading, "A", [900])}, ask=101)
    ((deal, bought),) = bargain.deals["A"]
    assert (deal.price, deal.gain) == (500, 0.3)
    assert outcome.state.best == {"A": bought.merged}
    assert outcome.state.budget == told_of(0.3)


@pytest.mark.parametrize("pricing", ["ask", "nash", "posted(0.0001)", "free"])
def test_a_purchase_without_progress_is_free_and_asks_no_seller(pricing):
    trading = opened(approved("A", "B"), pricing=pricing)
    assert [offer.gain for offer in trading.offers["A"]] == [0.0]
    bidding = trading.accept_bids({"A": bid(trading, "A", [0])})
    assert bidding.requests == {}
    bargain = bidding.accept_asks({})
    ((deal, bought),) = bargain.deals["A"]
    assert (deal.price, deal.ask, deal.gain) == (0, 0, 0.0)
    outcome = bargain.conclude({name: one.acknowledge() for name, one in bargain.deliver().items()})
    assert outcome.settled == ("run/7/A/B",)
    assert outcome.models["A"] is bought.merged
    assert outcome.state.best == {}
    assert outcome.state.budget == told_of(), "the certify split decided nothing"
    settlement.apply(trading.ledger, outcome)
    assert trading.ledger.balance("A") == trading.ledger.balance("B") == 1000


def test_without_approval_only_progress_is_offered():
    trading = opened(approved("A", "B"), priced("A", "C"), approval=False)
    assert [offer.seller for offer in trading.offers["A"]] == [trading.state.pseudonyms["C"]]


def test_the_best_model_of_a_bundle_is_that_of_its_last_progress():
    """The buyer holds the model of the last purchase, and progress counts from what it paid for."""
    first, second = priced("A", "B"), approved("A", "C", after=("B",))
    trading = opened(first, second)
    bargain, outcome = concluded(trading, {"A": bid(trading, "A", [100, 0], ["B", "C"])})
    assert [deal.price for deal, _ in bargain.deals["A"]] == [50, 0]
    assert outcome.models["A"] is second.merged
    assert outcome.state.best["A"] is first.merged
    first, second = approved("A", "B"), priced("A", "C", after=("B",))
    trading = opened(first, second)
    _, outcome = concluded(trading, {"A": bid(trading, "A", [0, 100], ["B", "C"])})
    assert outcome.state.best["A"] is second.merged


def test_a_refunded_purchase_leaves_no_progress():
    trading = opened(priced("A", "B"))
    _, outcome = concluded(trading, {"A": bid(trading, "A", [900])}, acknowledged=False)
    assert outcome.refunded
    assert outcome.state.best == {}
    assert outcome.state.budget == told_of(0.3), "its buyer was told"


@pytest.mark.parametrize(("scope", "best"), [("trial", True), ("published", False)])
def test_other_certificates_spend_no_error(scope, best):
    trading = opened(priced("A", "B"), certificate=scope)
    _, outcome = concluded(trading, {"A": bid(trading, "A", [900])})
    assert (bool(outcome.state.best), outcome.state.budget) == (best, ErrorBudget())


def test_offers_that_nobody_pays_for_cost_as_much_of_the_error_as_others():
    trading = opened(priced("A", "B", 0.5), priced("B", "C", 0.02), approved("C", "A"))
    declined, paid = concluded(trading, {})[1], concluded(trading, {"A": bid(trading, "A", [900], ["B"])})[1]
    assert declined.state.budget == paid.state.budget == told_of(0.5, 0.02)


def test_models_given_back_are_told_where_there_are_best_ones():
    trading = opened(approved("A", "B"), state=MarketState(runs=("run",)).with_best("A", {}).with_best("C", {}))
    assert trading.told == told_of()
    restoring = replace(trading, restores=True, restored={"A": {}})
    assert restoring.told == told_of(possible=15, others=1), "two best models, and one offer that could regress"
    worse = replace(restoring, trials=[replace(trial, regress=True) for trial in trading.trials])
    assert worse.told == told_of(possible=15, others=2)


def test_a_certified_gain_alone_is_no_offer():
    """Nor is one that the fit split alone promises, without approval."""
    certified = replace(approved("A", "B"), promise=-math.inf)
    trading = opened(certified, replace(approved("A", "C"), certificate=certificate(-0.1, -0.2), progress=None))
    assert [offer.seller for offer in trading.offers["A"]] == [trading.state.pseudonyms["C"]]
    assert [offer.gain for offer in trading.offers["A"]] == [0.0]
    assert replace(trading, terms=replace(trading.terms, approval=False)).offers == {}


def test_a_regress_is_no_offer_only_where_best_models_are_given_back():
    worse = replace(approved("A", "B"), regress=True)
    trading = opened(worse, approved("A", "C"))
    assert len(trading.offers["A"]) == 2
    restoring = replace(trading, restores=True)
    assert [offer.seller for offer in restoring.offers["A"]] == [trading.state.pseudonyms["C"]]


def test_what_is_given_free_of_charge():
    """A purchase replaces it; a best model given back is not where training goes on from."""
    free = {name: {"w": torch.full((2,), 10.0 + place)} for place, name in enumerate(NAMES)}
    best = {"C": {"w": torch.full((2,), 99.0)}, "D": {"w": torch.full((2,), 98.0)}}
    trading = replace(
        opened(priced("A", "B")), served={name: free[name] for name in "ABC"}, restored=best, restores=True
    )
    bargain = bargained(trading, {"A": bid(trading, "A", [900])})
    outcome = bargain.conclude({name: one.acknowledge() for name, one in bargain.deliver().items()})
    received = {name: one.model for name, one in outcome.deliveries.items()}
    assert received["A"] is trading.trials[0].merged
    assert received["B"] is free["B"]
    assert (received["C"], received["D"]) == (best["C"], best["D"])
    assert all(one.digest == digest(one.model) for one in outcome.deliveries.values())
    assert [name for name, one in outcome.deliveries.items() if one.key] == ["A"], "what is free needs no key"
    assert outcome.models["A"] is trading.trials[0].merged
    assert (outcome.models["B"], outcome.models["C"]) == (free["B"], free["C"])
    assert outcome.models["D"] is MODELS["D"], "it was not served: training goes on from its own model"
    assert outcome.settled == ("run/7/A/B",)
    assert set(outcome.state.delivered) == {"A"}


# -- with a real broker ---------------------------------------------------------------------------


def blobs(count, seed):
    """Return samples of three classes around three centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 6, generator=torch.Generator().manual_seed(99)) * 1.2
    targets = torch.randint(0, 3, (count,), generator=generator)
    return centres[targets] + torch.randn(count, 6, generator=generator), targets


def build():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def beginners():
    """Three models trained on thirty samples each: every pair gains."""
    models = {}
    for seed, name in enumerate("ABC", start=1):
        torch.manual_seed(seed)
        model, (inputs, targets) = build(), blobs(30, seed)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(40):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimiser.step()
        models[name] = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return models


def broker(**terms):
    terms = Terms(**(PUBLISHED | terms))
    made = Broker(build(), nn.CrossEntropyLoss(reduction="none"), blobs(600, 7), blobs(600, 8), terms=terms)
    for agent in "ABC":
        made.seat(agent)
    return made


def test_an_incremental_purchase_has_a_marginal_gain(beginners):
    trading = broker(max_purchases=2).open_round(beginners)
    (added,) = [trial for trial in trading.trials if trial.buyer == "A" and trial.after]
    first = next(t for t in trading.trials if (t.buyer, t.seller) == ("A", added.after[0]) and not t.after)
    assert {added.seller, first.seller} == {"B", "C"}
    assert added.certificate.loss_before == pytest.approx(first.certificate.loss_after)
    assert added.certificate.loss_after < first.certificate.loss_after


def test_a_second_identical_seller_adds_no_gain(beginners):
    """The published gain may rise with a second repair, which is no merit of the seller."""
    models = {"A": beginners["A"], "B": beginners["B"], "C": beginners["B"]}
    trials = broker(max_purchases=3, repair=False).open_round(models).trials
    alone = max(trial.certificate.gain for trial in trials if trial.buyer == "A" and not trial.after)
    added = [trial.certificate.gain for trial in trials if trial.buyer == "A" and trial.after]
    assert alone > 0.1
    assert sum(added) < 0.02 * alone


def test_a_market_continues_from_a_concluded_round(beginners):
    made = broker(pricing="free")
    for number in (1, 2):
        trading = made.open_round(beginners)
        assert trading.number == number
        bidding = trading.accept_bids({buyer: [Bid(some[0].id, 0)] for buyer, some in trading.offers.items()})
        bargain = bidding.accept_asks({})
        deliveries = bargain.deliver()
        made.conclude(bargain.conclude({name: delivery.acknowledge() for name, delivery in deliveries.items()}))
    assert made.state.round == 2
    assert len(made.trades) == len(settled(made.ledger)) > 2
    assert set(made.state.permutations) == {("A", "B"), ("A", "C"), ("B", "C")}
    assert made.ledger.verify() == []


def test_a_round_without_trade_delivers_nothing(beginners):
    made = broker()
    trading = made.open_round(beginners, trades=False)
    assert trading.trials == ()
    assert trading.offers == {}
    bargain = trading.accept_bids({}).accept_asks({})
    assert bargain.deliver() == {}
    outcome = bargain.conclude({})
    assert {delivery.model for delivery in outcome.deliveries.values()} == {None}
    assert outcome.models == beginners


def test_amounts_out_of_range_are_rejected():
    from fl_market.market.answers import check_amount

    for amount in (-1, 2**62, 2**70):
        with pytest.raises(MarketError, match="a bid or an ask"):
            check_amount(amount)
