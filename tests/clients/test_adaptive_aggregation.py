import copy

import pytest
import torch
from torch import nn

from clients.adaptive_aggregation import adapt


def build():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.fixture
def setting():
    torch.manual_seed(0)
    inputs = torch.randn(200, 3)
    own, common = build().state_dict(), build().state_dict()
    return build(), nn.CrossEntropyLoss(reduction="none"), own, common, (inputs, (inputs[:, 0] > 0).long())


def run(setting, weights=None):
    model, criterion, own, common, data = setting
    return adapt(model, criterion, own, common, weights, data, batch_size=20, seed=0, purpose=("test",))


def test_lower_layers_are_the_common_ones_and_the_last_lies_between(setting):
    own, common = setting[2:4]
    adapted, shares = run(setting)
    assert torch.equal(adapted["0.weight"], common["0.weight"])
    for name, share in zip(("2.weight", "2.bias"), shares, strict=True):
        assert 0 <= float(share.min()) <= float(share.max()) <= 1
        torch.testing.assert_close(adapted[name], own[name] + share * (common[name] - own[name]))
        assert not torch.equal(share, torch.ones_like(share)), "something was learned"


def test_the_adapted_model_has_less_loss_than_the_common_one(setting):
    _, criterion, _, common, data = setting
    losses = []
    for state in (common, run(setting)[0]):
        model = build()
        model.load_state_dict(state)
        with torch.no_grad():
            losses.append(float(criterion(model(data[0]), data[1]).mean()))
    assert losses[1] < losses[0]


def test_later_rounds_continue_from_the_last_weights_for_one_epoch(setting):
    common = setting[3]
    begun = [torch.full_like(common[name], 0.5) for name in ("2.weight", "2.bias")]
    (_, first), (_, later) = run(setting), run(setting, begun)
    assert any(not torch.equal(one, other) for one, other in zip(first, later, strict=True))
    assert not torch.equal(later[0], begun[0])


def test_equal_models_leave_nothing_to_learn(setting):
    model, criterion, own, _, data = setting
    common = copy.deepcopy(own)
    adapted, shares = adapt(model, criterion, own, common, None, data, batch_size=20, seed=0, purpose=())
    assert all(torch.equal(adapted[name], own[name]) for name in own)
    assert all(bool((share == 1).all()) for share in shares)
