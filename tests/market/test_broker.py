import pytest
import torch
from torch import nn

from fl_market.broker import Broker, Terms
from fl_market.errors import MarketError
from fl_market.gains import Profile
from fl_market.ledger import ESCROW, DealState
from fl_market.permutation import apply_permutation, random_permutation


def build():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def blobs(count, seed):
    """Three classes around three centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 6, generator=torch.Generator().manual_seed(99)) * 1.2
    targets = torch.randint(0, 3, (count,), generator=generator)
    return centres[targets] + torch.randn(count, 6, generator=generator), targets


def trained(seed, classes, count=1500):
    torch.manual_seed(seed)
    model, (inputs, targets) = build(), blobs(count, seed)
    # a few of the other classes remain, as in the published set-up
    kept = torch.isin(targets, torch.tensor(classes)) | (torch.arange(count) % 10 == 0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs[kept]), targets[kept]).backward()
        optimiser.step()
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def models():
    return {"A": trained(1, [0, 1]), "B": trained(2, [1, 2])}


def broker(**terms):
    made = Broker(
        build(),
        nn.CrossEntropyLoss(reduction="none"),
        blobs(600, 7),
        blobs(600, 8),
        terms=Terms(**{"pricing": "free", **terms}),
    )
    for agent in ("A", "B", "C"):
        made.seat(agent)
    return made


def by_pair(trials):
    return {(trial.buyer, trial.seller): trial for trial in trials}


def test_agents_with_different_classes_gain_from_each_other(models):
    trials = by_pair(broker().try_before_purchase(models))
    assert set(trials) == {("A", "B"), ("B", "A")}
    for trial in trials.values():
        assert trial.certificate.positive
        assert 0 < trial.certificate.lower_bound < trial.certificate.gain
        assert 0 < trial.alpha < 1


def test_a_permuted_copy_is_recognised_and_worth_nothing(models):
    """Aligned, the seller is the buyer itself: every α gives the same model, so that there is nothing to gain."""
    made = broker(repair=False)
    copy = apply_permutation(made.spec, random_permutation(made.spec, 3), models["A"])
    for trial in made.try_before_purchase({"A": models["A"], "B": copy}):
        assert trial.certificate.gain == pytest.approx(0, abs=1e-5)
    unaligned = broker(repair=False, alignment="none").try_before_purchase({"A": models["A"], "B": copy})
    assert any(abs(trial.certificate.gain) > 1e-3 for trial in unaligned)


def test_a_worthless_model_sells_nothing(models):
    """Beside a well-trained buyer, random weights of any size have no certified gain."""
    good = trained(4, [0, 1, 2])
    for scale in (0.01, 1.0, 10.0):
        torch.manual_seed(5)
        worthless = {name: scale * torch.randn_like(tensor) for name, tensor in good.items()}
        trials = by_pair(broker().try_before_purchase({"A": good, "B": worthless}))
        assert not trials["A", "B"].certificate.positive
        with pytest.raises(MarketError, match="A bids on an offer that does not exist"):
            broker().bargain(1, list(trials.values()), {("A", "B"): 10}, {})


@pytest.mark.parametrize("scale", [1e8, 1e25, 3e38])
@pytest.mark.parametrize("terms", [{}, {"granularity": "row"}, {"repair": False}])
def test_finite_but_absurd_parameters_are_not_for_sale_and_stop_nobody(models, scale, terms):
    absurd = {name: torch.full_like(tensor, scale) for name, tensor in models["B"].items()}
    trials = by_pair(broker(fit_steps=2, **terms).try_before_purchase(models | {"C": absurd}))
    assert not trials["A", "C"].certificate.positive
    assert not trials["B", "C"].certificate.positive
    for pair, trial in by_pair(broker(fit_steps=2, **terms).try_before_purchase(models)).items():
        assert trials[pair].certificate == trial.certificate


def test_a_trial_depends_on_nothing_but_the_models(models):
    """Neither the order of the agents nor an earlier trade of the round."""
    forwards = broker().try_before_purchase(models)
    backwards = broker().try_before_purchase(dict(reversed(models.items())))
    for first, second in zip(forwards, backwards, strict=True):
        assert first.certificate == second.certificate
        assert all(torch.equal(first.merged[name], second.merged[name]) for name in first.merged)


def test_a_deal_is_agreed_and_escrowed(models):
    made = broker(pricing="nash")
    trials = made.try_before_purchase(models)
    deals = made.bargain(5, trials, {("A", "B"): 900, ("B", "A"): 500}, {("A", "B"): 101, ("B", "A"): 501})
    assert set(deals) == {"A"}, "B's bid is below A's ask"
    ((deal, trial),) = deals["A"]
    assert deal.price == 500, "the midpoint, rounded down"
    assert (deal.gain, deal.alpha) == (trial.certificate.gain, trial.alpha)
    assert made.ledger.balance(ESCROW) == 500
    assert made.ledger.verify() == []


def test_a_purchase_beyond_the_balance_does_not_happen(models):
    made = broker(pricing="nash", endowment=0.0004)
    deals = made.bargain(5, made.try_before_purchase(models), {("A", "B"): 900}, {("A", "B"): 0})
    assert deals == {}
    assert [state for _, state in made.ledger.deals()] == [DealState.VOID]
    assert made.ledger.balance("A") == 400


def test_a_bid_without_an_ask_is_no_deal_where_asks_are_needed(models):
    made = broker(pricing="nash")
    assert made.bargain(5, made.try_before_purchase(models), {("A", "B"): 900}, {}) == {}


def test_the_free_rule_records_deals_of_price_0(models):
    made = broker()
    deals = made.bargain(5, made.try_before_purchase(models), {("A", "B"): 900}, {})
    assert deals["A"][0][0].price == 0
    assert made.ledger.state(deals["A"][0][0].id) is DealState.ESCROWED


def test_a_buyer_buys_from_one_seller_a_round(models):
    made = broker()
    three = models | {"C": trained(3, [0, 2])}
    trials = made.try_before_purchase(three)
    assert len(trials) == 6
    with pytest.raises(MarketError, match="A bids on an offer that does not exist"):
        made.bargain(1, trials, {("A", "B"): 1, ("A", "C"): 1}, {})


@pytest.mark.parametrize("amount", [-1, 2**62, 2**70])
def test_amounts_that_nobody_can_pay(amount):
    with pytest.raises(MarketError, match="a bid or an ask"):
        broker().check_amount(amount)


class Normed(nn.Sequential):
    """A network with BatchNorm, LayerNorm or GroupNorm."""

    def __init__(self, norm):
        super().__init__(nn.Linear(6, 16), norm, nn.ReLU(), nn.Linear(16, 3))


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm, lambda size: nn.GroupNorm(4, size)])
def test_networks_with_norms_trade(norm):
    data = blobs(1500, 1)
    states = {}
    for seed, agent, scarce in ((1, "A", 0), (2, "B", 2)):
        torch.manual_seed(seed)
        model = Normed(norm(16)).train()
        kept = (data[1] != scarce) | (torch.arange(1500) % 10 == 0)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(data[0][kept]), data[1][kept]).backward()
            optimiser.step()
        states[agent] = model.state_dict()
    criterion, terms = nn.CrossEntropyLoss(reduction="none"), Terms(pricing="free")
    made = Broker(Normed(norm(16)), criterion, blobs(600, 7), blobs(600, 8), terms=terms)
    for agent in states:
        made.seat(agent)
    trials = made.try_before_purchase(states)
    certificate = by_pair(trials)["A", "B"].certificate
    assert certificate.positive
    assert certificate.gain > 0.1
    assert set(made.bargain(1, trials, {("A", "B"): 1}, {})) == {"A"}


def test_a_purchase_of_some_layers_leaves_the_rest_as_it_is(models):
    trials = broker(layers="0,2", granularity="row").try_before_purchase(models)
    assert {trial.layers for trial in trials} == {"0,4"}
    for trial in trials:
        own = models[trial.buyer]
        changed = {name.split(".")[0] for name in own if not torch.equal(own[name], trial.merged[name])}
        assert changed == {"0", "4"}
        assert 0 < trial.alpha < 1


@pytest.mark.parametrize("share", [0.05, 0.4, 0.8])
def test_within_a_budget_the_broker_picks_the_layers(models, share):
    total = sum(tensor.numel() for tensor in models["A"].values())
    for trial in broker(layer_budget=share).try_before_purchase(models):
        own = models[trial.buyer]
        bought = sum(own[name].numel() for name in own if not torch.equal(own[name], trial.merged[name]))
        assert bought <= share * total
        assert not trial.certificate.positive or trial.layers


def test_layers_that_the_model_does_not_have_are_refused():
    with pytest.raises(MarketError, match="'9' names no layer"):
        broker(layers="9")


def test_a_buyer_with_validation_data_of_its_own_is_judged_by_it(models):
    """B knows class 2, which A's own data does not hold: nothing to gain there, though the broker's data says so."""
    made = broker()
    inputs, targets = blobs(800, 11)
    known = targets < 2
    common = by_pair(made.try_before_purchase(models))["A", "B"]
    made.register("A", Profile(validation=(inputs[known], targets[known])))
    own = by_pair(made.try_before_purchase(models))
    assert own["A", "B"].certificate.gain < common.certificate.gain
    assert own["B", "A"].certificate == by_pair(broker().try_before_purchase(models))["B", "A"].certificate
    with pytest.raises(MarketError, match="at least four samples"):
        made.register("A", Profile(validation=(inputs[:3], targets[:3])))


def test_a_buyer_with_target_classes_keeps_its_own_purpose(models):
    made = broker()
    made.register("A", Profile(class_weights=(1.0, 1.0, 0.0)))
    made.register("B", Profile(class_weights=(0.0, 1.0, 1.0)))
    trials = by_pair(made.try_before_purchase(models))
    assert trials["A", "B"].alpha < 0.5
    assert trials["A", "B"].alpha + trials["B", "A"].alpha != pytest.approx(1.0, abs=0.01)
    assert trials["A", "B"].certificate.samples < 600


def test_bought_weights_cannot_be_resold_in_whatever_order(models):
    made = broker()
    (trial,) = [trial for trial in made.try_before_purchase(models) if trial.buyer == "A"]
    made.record_delivery("A", trial.merged)
    weak = {name: 0.1 * tensor for name, tensor in models["B"].items()}
    copy = apply_permutation(made.spec, random_permutation(made.spec, 3), trial.merged)
    for resold in (trial.merged, copy):
        trials = by_pair(made.try_before_purchase({"A": resold, "C": weak}))
        assert made.resellers == {"A"}
        assert not trials["C", "A"].certificate.positive
        assert trials["C", "A"].layers == ""
    trained_on = {name: tensor + 0.02 * torch.randn_like(tensor) for name, tensor in trial.merged.items()}
    assert by_pair(made.try_before_purchase({"A": trained_on, "C": weak}))["C", "A"].certificate.positive
    assert made.resellers == frozenset()


def test_two_identical_sellers_earn_no_more_than_one(models):
    earned = []
    for sellers in (["B"], ["B", "C"]):
        made = broker(pricing="nash")
        trials = made.try_before_purchase({"A": models["A"], **dict.fromkeys(sellers, models["B"])})
        best = max((trial for trial in trials if trial.buyer == "A"), key=lambda trial: trial.certificate.lower_bound)
        pair = (best.buyer, best.seller)
        deals = made.bargain(1, trials, {pair: 300_000}, {pair: 100_000})
        made.ledger.deliver(deals["A"][0][0].id)
        made.ledger.settle(deals["A"][0][0].id)
        earned.append(sum(made.ledger.balance(name) - 100_000_000 for name in ("B", "C")))
    assert earned[0] == earned[1] == 200_000


@pytest.fixture(scope="module")
def beginners():
    """Each has seen thirty samples only: everybody gains from everybody."""
    return {name: trained(seed, [0, 1, 2], count=30) for seed, name in enumerate("ABC", start=1)}


def test_a_bundle_adds_sellers_by_their_marginal_gain(beginners):
    made = broker(pricing="nash", max_purchases=2)
    trials = made.try_before_purchase(beginners)
    (added,) = [trial for trial in trials if trial.buyer == "A" and trial.after]
    first = by_pair([trial for trial in trials if not trial.after])["A", added.after[0]]
    assert {added.seller, first.seller} == {"B", "C"}
    assert added.before is first.merged
    assert added.certificate.loss_after < first.certificate.loss_after
    bids = {("A", first.seller): 300_000, ("A", added.seller): 100_000}
    deals = made.bargain(1, trials, bids, dict.fromkeys(bids, 50_000))["A"]
    assert [(deal.seller, deal.price) for deal, _ in deals] == [(first.seller, 175_000), (added.seller, 75_000)]
    assert sum(deal.price for deal, _ in deals) <= sum(bids.values())
    assert made.ledger.verify() == []


def test_where_a_bundle_breaks_what_comes_on_top_is_not_bought(beginners):
    made = broker(pricing="nash", max_purchases=3)
    trials = made.try_before_purchase(beginners)
    chain = [trial for trial in trials if trial.buyer == "A" and trial.after]
    order = (*chain[-1].after, chain[-1].seller)
    bids = {("A", seller): 100_000 for seller in order}
    asks = {("A", order[0]): 100_001, ("A", order[1]): 0}
    assert made.bargain(1, trials, bids, asks) == {}
    only = made.bargain(2, trials, bids, {("A", order[0]): 0})
    assert [deal.seller for deal, _ in only["A"]] == [order[0]]
    with pytest.raises(MarketError, match="does not exist"):
        made.bargain(3, trials, {("A", order[0]): 1, ("A", "Z"): 1}, {})


def test_identical_sellers_make_no_bundle(models):
    made = broker(max_purchases=3)
    trials = made.try_before_purchase({"A": models["A"], "B": models["B"], "C": models["B"]})
    alone = max(trial.certificate.gain for trial in trials if trial.buyer == "A" and not trial.after)
    added = [trial.certificate.gain for trial in trials if trial.buyer == "A" and trial.after]
    assert sum(added) < 0.02 * alone


@pytest.mark.parametrize("terms", [{"granularity": "rows"}, {"disclosure": "open"}, {"gain": "percent"}])
def test_terms_that_are_none_are_named(terms):
    """They would pass for parameters that are absurd, and nothing would ever be for sale."""
    (name,) = terms
    with pytest.raises(MarketError, match=f"{name} must be one of .*; got '{terms[name]}'"):
        Terms(**terms)
