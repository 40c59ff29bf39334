from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fl_market.errors import MarketError
from fl_market.gains import ModelLoss
from fl_market.merging import (
    NormStatistics,
    Repair,
    best_layers,
    fit_simplex,
    interpolate,
    layer_sizes,
    merge_many,
    only_layers,
    select_layers,
)
from fl_market.tasks.mnist_mlp import build_mlp
from fl_market.tasks.resnet import ResNet


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ("all", ("1", "3", "5", "7", "9")),
        ("0,1", ("1", "3")),
        ("-1", ("9",)),
        ("4,3,3", ("7", "9")),
    ],
)
def test_layers_of_the_mlp_by_index(selection, chosen):
    assert select_layers(build_mlp(), selection) == chosen


def test_layers_by_name_pattern():
    chosen = select_layers(ResNet(blocks=1), "blocks.2.*,head")
    assert chosen[0] == "blocks.2.conv1"
    assert chosen[-1] == "head"
    assert all(name.startswith("blocks.2.") for name in chosen[:-1])


@pytest.mark.parametrize("selection", ["7", "-6", "", "0,nothing", "blocks.*"])
def test_a_selection_that_names_no_layer_is_refused(selection):
    with pytest.raises(MarketError, match=r"layers must be 'all', indices from 0 to 4.* names no layer"):
        select_layers(build_mlp(), selection)


@pytest.mark.parametrize("repaired", [False, True])
def test_other_layers_stay_the_buyers_to_the_last_bit(repaired):
    torch.manual_seed(0)
    model, own, other = build_mlp(), build_mlp().state_dict(), build_mlp().state_dict()
    bought = only_layers(own, other, ("3", "5"))
    repair = Repair(model, torch.randn(64, 784))
    merged = repair.merging(own, bought)(0.3) if repaired else interpolate(own, bought, 0.3)
    for name in own:
        assert torch.equal(merged[name], own[name]) == (name.split(".")[0] not in ("3", "5"))


def test_batch_norm_statistics_are_kept_before_the_bought_layer_and_recomputed_behind_it():
    torch.manual_seed(0)
    model, own, other = ResNet(blocks=1).eval(), ResNet(blocks=1).state_dict(), ResNet(blocks=1).state_dict()
    bought = only_layers(own, other, ("blocks.1.conv2",))
    merged = NormStatistics(model, torch.randn(32, 3, 8, 8)).merging(own, bought)(0.5)
    same = {
        name.removesuffix(".running_mean")
        for name in own
        if name.endswith("running_mean") and torch.equal(own[name], merged[name])
    }
    assert same == {"norm", "blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.shortcut.1"}


SIZES = {"a": 50, "b": 30, "c": 30, "d": 15, "e": 10}


def exhaustive(budget, sizes, gain):
    sets = [frozenset(chosen) for count in range(len(sizes) + 1) for chosen in combinations(sizes, count)]
    return max(gain(chosen) if chosen else 0.0 for chosen in sets if sum(sizes[name] for name in chosen) <= budget)


@given(
    st.lists(st.floats(-1, 1), min_size=5, max_size=5),
    st.lists(st.floats(0, 0.3), min_size=4, max_size=4),
    st.integers(0, 135),
)
def test_the_chosen_layers_fit_the_budget_and_are_never_worse_than_nothing(worth, together, budget):
    values = dict(zip(SIZES, worth, strict=True))
    pairs = list(zip(SIZES, list(SIZES)[1:], together, strict=False))

    def gain(layers):
        return sum(values[name] for name in layers) + sum(w for a, b, w in pairs if a in layers and b in layers)

    chosen, found = best_layers(budget, SIZES, gain)
    assert sum(SIZES[name] for name in chosen) <= budget
    assert 0 <= found <= exhaustive(budget, SIZES, gain) + 1e-9
    assert found == (gain(chosen) if chosen else 0.0)
    if budget == 135 and not any(together):
        assert found == pytest.approx(exhaustive(budget, SIZES, gain))


def trained(seed, classes):
    torch.manual_seed(seed)
    model = nn.Sequential(*[part for _ in range(4) for part in (nn.Linear(8, 8), nn.ReLU())], nn.Linear(8, 4))
    inputs, targets = data(seed)
    kept = torch.isin(targets, torch.tensor(classes))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs[kept]), targets[kept]).backward()
        optimiser.step()
    return model, {name: tensor.detach() for name, tensor in model.state_dict().items()}


def data(seed):
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(4, 8, generator=torch.Generator().manual_seed(5))
    targets = torch.randint(0, 4, (800,), generator=generator)
    return centres[targets] + torch.randn(800, 8, generator=generator), targets


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 1.0])
def test_greedy_reaches_nine_tenths_of_the_exhaustive_optimum_on_five_trained_layers(share):
    model, own = trained(0, [0, 1])
    _, other = trained(0, [2, 3])
    loss, held = ModelLoss(model, nn.CrossEntropyLoss(reduction="none")), data(9)
    sizes = layer_sizes(own)

    @torch.no_grad()
    def gain(layers):
        merged = interpolate(own, only_layers(own, other, tuple(layers)), 0.5)
        return float((loss(own, held) - loss(merged, held)).mean())

    budget = int(share * sum(sizes.values()))
    best = exhaustive(budget, sizes, gain)
    assert best > 0
    assert best_layers(budget, sizes, gain)[1] >= 0.9 * best


def test_a_negative_budget_is_refused():
    with pytest.raises(MarketError, match="at least 0"):
        best_layers(-1, SIZES, len)


def test_merging_several_sellers_is_the_weighted_mean():
    states = [{"w": torch.full((2,), value), "count": torch.tensor(7)} for value in (1.0, 2.0, 6.0)]
    assert torch.allclose(merge_many(states[0], states[1:])["w"], torch.tensor(3.0))
    merged = merge_many(states[0], states[1:], [0.5, 0.25])
    assert torch.allclose(merged["w"], torch.tensor(0.25 * 1 + 0.5 * 2 + 0.25 * 6))
    assert merged["count"] == 7


@pytest.mark.parametrize("weights", [[0.5], [0.8, 0.3], [-0.1, 0.2], [float("nan"), 0.1]])
def test_weights_off_the_simplex_are_refused(weights):
    states = [{"w": torch.ones(2)}] * 3
    with pytest.raises(MarketError, match="at least 0 and together at most 1"):
        merge_many(states[0], states[1:], weights)


def test_the_weights_of_several_sellers_in_closed_form():
    """The loss ‖θ - target‖² with the target inside the triangle of three models."""
    states = [{"w": torch.tensor(corner)} for corner in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])]
    samples = (torch.zeros(10, 1), torch.zeros(10))

    def loss_to(target):
        return lambda state, data: ((state["w"] - torch.tensor(target)) ** 2).sum().expand(len(data[0]))

    weights = fit_simplex(states[0], states[1:], loss_to([0.2, 0.5]), samples, steps=400)
    assert torch.allclose(weights, torch.tensor([0.2, 0.5]), atol=0.01)
    assert torch.equal(fit_simplex(states[0], states[1:], loss_to([-1.0, -1.0]), samples), torch.zeros(2))
