import pytest
import torch
from torch import nn

from fl_market.broker import Broker, Terms
from fl_market.errors import MarketError
from fl_market.gains import Profile
from fl_market.permutation import apply_permutation, random_permutation
from tests.terms import PUBLISHED

RUN = {"certificate": "run", "selection": "patient", "service": "tune"}
"""The default terms, where the tests' broker has the published ones."""


def build():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def blobs(count, seed):
    """Return samples of three classes around three centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 6, generator=torch.Generator().manual_seed(99)) * 1.2
    targets = torch.randint(0, 3, (count,), generator=generator)
    return centres[targets] + torch.randn(count, 6, generator=generator), targets


def trained(seed, classes, count=1500):
    torch.manual_seed(seed)
    model, (inputs, targets) = build(), blobs(count, seed)
    # a few samples of the other classes remain, as in the published setup
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
        terms=Terms(**{"pricing": "free", **PUBLISHED, **terms}),
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


def test_the_levels_of_trials_and_nothing_else_depend_on_the_number_of_agents(models):
    """A run's error is divided among all pairs: a third agent lowers the bounds of the others."""
    alone, among = (
        by_pair(broker(**RUN, fit_steps=2).try_before_purchase(some))
        for some in (models, models | {"C": {name: 1e25 * torch.ones_like(one) for name, one in models["A"].items()}})
    )
    for pair, trial in alone.items():
        assert among[pair].alpha == trial.alpha
        assert among[pair].certificate.gain == trial.certificate.gain
        assert among[pair].certificate.lower_bound < trial.certificate.lower_bound
        assert among[pair].certificate.confidence > trial.certificate.confidence
        assert not among[pair[0], "C"].certificate.positive


def test_a_permuted_copy_has_no_gain(models):
    """After alignment the seller equals the buyer, so that every α gives the same model."""
    made = broker(repair=False)
    copy = apply_permutation(made.spec, random_permutation(made.spec, 3), models["A"])
    for trial in made.try_before_purchase({"A": models["A"], "B": copy}):
        assert trial.certificate.gain == pytest.approx(0, abs=1e-5)
    unaligned = broker(repair=False, alignment="none").try_before_purchase({"A": models["A"], "B": copy})
    assert any(abs(trial.certificate.gain) > 1e-3 for trial in unaligned)


@pytest.mark.parametrize("terms", [{}, RUN])
def test_random_weights_have_no_certified_gain(models, terms):
    """The buyer is well trained, and the weights have any scale."""
    good = trained(4, [0, 1, 2])
    for scale in (0.01, 1.0, 10.0):
        torch.manual_seed(5)
        worthless = {name: scale * torch.randn_like(tensor) for name, tensor in good.items()}
        trials = by_pair(broker(**terms).try_before_purchase({"A": good, "B": worthless}))
        assert not trials["A", "B"].certificate.positive


@pytest.mark.parametrize("scale", [1e8, 1e25, 3e38])
@pytest.mark.parametrize(
    "terms", [{}, {"granularity": "row"}, {"repair": False}, RUN | {"certificate": "trial", "granularity": "row"}]
)
def test_absurd_finite_parameters_are_not_for_sale_and_affect_no_other_pair(models, scale, terms):
    absurd = {name: torch.full_like(tensor, scale) for name, tensor in models["B"].items()}
    trials = by_pair(broker(fit_steps=2, **terms).try_before_purchase(models | {"C": absurd}))
    assert not trials["A", "C"].certificate.positive
    assert not trials["B", "C"].certificate.positive
    for pair, trial in by_pair(broker(fit_steps=2, **terms).try_before_purchase(models)).items():
        assert trials[pair].certificate == trial.certificate


@pytest.mark.parametrize("terms", [{}, RUN])
def test_trials_depend_only_on_the_models(models, terms):
    """The order of the agents has no effect."""
    forwards = broker(**terms).try_before_purchase(models)
    backwards = broker(**terms).try_before_purchase(dict(reversed(models.items())))
    for first, second in zip(forwards, backwards, strict=True):
        assert (first.certificate, first.progress) == (second.certificate, second.progress)
        assert all(torch.equal(first.merged[name], second.merged[name]) for name in first.merged)


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
    criterion, terms = nn.CrossEntropyLoss(reduction="none"), Terms(pricing="free", **PUBLISHED)
    made = Broker(Normed(norm(16)), criterion, blobs(600, 7), blobs(600, 8), terms=terms)
    for agent in states:
        made.seat(agent)
    certificate = by_pair(made.try_before_purchase(states))["A", "B"].certificate
    assert certificate.positive
    assert certificate.gain > 0.1


def test_a_purchase_of_some_layers_changes_no_other_layer(models):
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
        bought = sum(own[name].numel() for name in trial.merged if not torch.equal(own[name], trial.merged[name]))
        assert bought <= share * total
        assert not trial.certificate.positive or trial.layers


def test_unknown_layers_are_rejected():
    with pytest.raises(MarketError, match="'9' names no layer"):
        broker(layers="9")


def test_own_validation_data_certify_a_buyers_purchases(models):
    """B knows class 2, which is in the broker's data but not in A's."""
    made = broker()
    inputs, targets = blobs(800, 11)
    known = targets < 2
    common = by_pair(made.try_before_purchase(models))["A", "B"]
    made.register("A", Profile(validation=(inputs[known], targets[known])))
    own = by_pair(made.try_before_purchase(models))
    assert own["A", "B"].certificate.gain < common.certificate.gain
    assert own["B", "A"].certificate == by_pair(broker().try_before_purchase(models))["B", "A"].certificate
    with pytest.raises(MarketError, match="at least 200 samples"):
        made.register("A", Profile(validation=(inputs[known][:199], targets[known][:199])))


def test_a_buyer_with_target_classes_keeps_its_own_objective(models):
    made = broker()
    made.register("A", Profile(class_weights=(1.0, 1.0, 0.0)))
    made.register("B", Profile(class_weights=(0.0, 1.0, 1.0)))
    trials = by_pair(made.try_before_purchase(models))
    assert trials["A", "B"].alpha < 0.5
    assert trials["A", "B"].alpha + trials["B", "A"].alpha != pytest.approx(1.0, abs=0.01)
    assert trials["A", "B"].certificate.samples < 600


def test_purchased_weights_cannot_be_resold_in_any_order_of_the_units(models):
    made = broker()
    (trial,) = [trial for trial in made.try_before_purchase(models) if trial.buyer == "A"]
    made.state = made.state.with_delivery("A", trial.merged)
    weak = {name: 0.1 * tensor for name, tensor in models["B"].items()}
    copy = apply_permutation(made.spec, random_permutation(made.spec, 3), trial.merged)
    for resold in (trial.merged, copy):
        trading = made.open_round({"A": resold, "C": weak})
        assert [notice.agent for notice in trading.notices] == ["A"]
        assert set(by_pair(trading.trials)) == {("A", "C")}
    trained_on = {name: tensor + 0.02 * torch.randn_like(tensor) for name, tensor in trial.merged.items()}
    trading = made.open_round({"A": trained_on, "C": weak})
    assert by_pair(trading.trials)["C", "A"].certificate.positive
    assert trading.notices == ()


@pytest.mark.parametrize("terms", [{"granularity": "rows"}, {"disclosure": "open"}, {"gain": "percent"}])
def test_invalid_terms_are_named(terms):
    """Without this check they would look like absurd parameters, and nothing would be for sale."""
    (name,) = terms
    with pytest.raises(MarketError, match=f"{name} must be one of .*; got '{terms[name]}'"):
        Terms(**terms)
