"""The broker's description of each buyer: model, objective and layers to share."""

import pytest
import torch
from torch import nn

from fl_market.broker import Broker, Terms
from fl_market.data import with_labels
from fl_market.errors import MarketError
from fl_market.gains import Profile
from fl_market.market.buyers import Buyers
from fl_market.permutation import apply_permutation, random_permutation


def build(classes=6):
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, classes or 6))


def data(seed, count=120):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=generator), torch.arange(count) % 6


@pytest.fixture
def buyers():
    return Buyers(build, nn.CrossEntropyLoss(reduction="none"), data(0), data(1), repaired=False)


def test_without_a_profile_the_objective_is_the_common_one(buyers):
    assert buyers.of(None) is buyers.common
    assert buyers.shared_layers(buyers.common, buyers.common) == ("0", "2", "4")


def test_labels_number_the_outputs(buyers):
    inputs, targets = with_labels(data(0), (1, 4))
    assert targets.tolist() == [0, 1] * 20
    assert torch.equal(inputs, data(0)[0][torch.isin(data(0)[1], torch.tensor([1, 4]))])
    buyer = buyers.of(Profile(labels=(1, 4)))
    assert buyer.template["4.weight"].shape == (2, 8)
    assert torch.equal(buyer.objective.fit[1], targets)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ((0, 1), (0, 1), ("0", "2", "4")),
        ((0, 1), (2, 3), ("0", "2")),
        ((0, 1), (2, 3, 4), ("0", "2")),
        ((0, 1), (), ("0", "2")),
    ],
)
def test_agents_of_different_label_spaces_share_all_but_the_head(buyers, one, other, shared):
    first, second = (buyers.of(Profile(labels=labels)) for labels in (one, other))
    assert buyers.shared_layers(first, second) == buyers.shared_layers(second, first) == shared


@pytest.mark.parametrize("labels", [(1, 0), (0, 0), (5, 6), (-1, 2), (0, 1, 2, 3, 4, 5)])
def test_invalid_labels(buyers, labels):
    with pytest.raises(MarketError, match="must be some of the classes 0 to 5"):
        buyers.of(Profile(labels=labels))


def test_labels_without_data_at_the_broker_are_rejected():
    inputs, targets = data(0)
    few = inputs[targets != 3], targets[targets != 3]
    made = Buyers(build, nn.CrossEntropyLoss(reduction="none"), few, data(1), repaired=False)
    with pytest.raises(MarketError, match="too little data"):
        made.of(Profile(labels=(0, 3)))


def test_each_profile_has_an_objective_of_its_own(buyers):
    for weights, valued in (((1.0, 0.0), {0}), ((0.0, 1.0), {1}), ((0.0, 1.0), {1})):
        objective = buyers.of(Profile(labels=(1, 4), class_weights=weights)).objective
        assert set(objective.fit[1].tolist()) == valued


def test_class_weights_apply_to_own_validation_data(buyers):
    profile = Profile(class_weights=(1.0,) * 3 + (0.0,) * 3, validation=data(5, 240))
    objective = buyers.of(profile).objective
    assert len(objective.fit[0]) + len(objective.certify[0]) == 120


def broker(**terms):
    criterion = nn.CrossEntropyLoss(reduction="none")
    return Broker(build(), criterion, data(0), data(1), terms=Terms(**{"pricing": "free", **terms}), build=build)


def test_a_seller_with_another_head_is_aligned_by_the_shared_layers():
    """The seller's hidden layers are a permuted copy of the buyer's, and are restored exactly."""
    made = broker(repair=False, confidence=0.5, novelty=0.0)
    torch.manual_seed(0)
    own, head = build().state_dict(), build(2).state_dict()
    seller = dict(apply_permutation(made.spec, random_permutation(made.spec, 1), own))
    seller |= {name: tensor for name, tensor in head.items() if name.startswith("4")}
    made.register("B", Profile(labels=(2, 3)))
    bought, _ = made.try_before_purchase({"A": own, "B": seller})
    assert bought.layers == "0,2"
    aligned = aligned_by(made, own, seller)
    for name in (name for name in own if name[0] != "4"):
        torch.testing.assert_close(aligned[name], own[name])
    unaligned = aligned_by(broker_with_labels(alignment="none", novelty=0.0), own, seller)
    assert not torch.allclose(unaligned["0.weight"], own["0.weight"])


def aligned_by(made, own, seller):
    """Return B's parameters in the order of A's units."""
    one, other = (made._evaluator._buyer(made.state, agent) for agent in "AB")
    return made._aligner.align((one, own), (other, seller)).to_first(seller)


def broker_with_labels(**terms):
    made = broker(repair=False, **terms)
    made.register("B", Profile(labels=(2, 3)))
    return made


def test_purchased_hidden_layers_cannot_be_resold_with_another_head():
    made = broker_with_labels()
    torch.manual_seed(1)
    delivered = build().state_dict()
    made.state = made.state.with_delivery("A", delivered)
    reseller = dict(delivered) | {name: tensor for name, tensor in build(2).state_dict().items() if name[0] == "4"}
    trading = made.open_round({"B": reseller, "C": build().state_dict()})
    assert [notice.agent for notice in trading.notices] == ["B"]


def test_agents_without_shared_layers_for_sale_do_not_trade():
    made = broker_with_labels(layers="2")
    trials = made.try_before_purchase({"A": build().state_dict(), "B": build(2).state_dict()})
    assert [trial.layers for trial in trials] == ["", ""]


def test_labels_need_a_broker_with_the_argument_build():
    made = Broker(build(), nn.CrossEntropyLoss(reduction="none"), data(0), data(1))
    with pytest.raises(MarketError, match="needs a broker with the argument build"):
        made.register("A", Profile(labels=(0, 1)))
