import pytest
import torch
from torch import nn

from fl_market.merging import NormStatistics, Repair, interpolate, repair_for


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 12), nn.ReLU(), nn.Linear(12, 4)
    )


INPUTS = torch.randn(200, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def merged_with(alpha):
    own, other = network(1).state_dict(), network(2).state_dict()
    repair = Repair(network(0), INPUTS)
    statistics = repair.statistics(own), repair.statistics(other)
    with torch.no_grad():
        return repair, own, other, statistics, repair.merge(own, other, alpha, *statistics)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_the_merged_network_has_the_interpolated_statistics(alpha):
    repair, _, _, (own, other), merged = merged_with(alpha)
    found = repair.statistics(merged)
    assert set(found) == {"0", "3", "5"}
    for layer, (mean, std) in found.items():
        torch.testing.assert_close(mean, (1 - alpha) * own[layer][0] + alpha * other[layer][0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(std, (1 - alpha) * own[layer][1] + alpha * other[layer][1], atol=1e-4, rtol=1e-3)


def test_without_repair_the_variance_collapses():
    repair, own, other, (own_statistics, _), _ = merged_with(0.5)
    plain = repair.statistics(interpolate(own, other, 0.5))
    assert plain["5"][1].mean() < 0.7 * own_statistics["5"][1].mean()


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_repair_changes_nothing_at_both_ends(alpha):
    _, own, other, _, merged = merged_with(alpha)
    expected = other if alpha else own
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=1e-3)


def test_a_weight_for_each_row_sets_each_unit_s_target():
    alpha = {name: torch.full((t.shape[0], *[1] * (t.dim() - 1)), 0.3) for name, t in network(1).state_dict().items()}
    *_, by_row = merged_with(alpha)
    *_, single = merged_with(0.3)
    for name, tensor in by_row.items():
        torch.testing.assert_close(tensor, single[name])


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (nn.Identity(), Repair),
        (nn.BatchNorm1d(8), NormStatistics),
        (nn.BatchNorm1d(8, track_running_stats=False), type(None)),
        (nn.LayerNorm(8), type(None)),
        (nn.GroupNorm(2, 8), type(None)),
    ],
)
def test_the_repair_of_each_kind_of_network(norm, expected):
    model = nn.Sequential(nn.Linear(4, 8), norm, nn.Linear(8, 2))
    assert type(repair_for(model, torch.zeros(3, 4))) is expected


def normed(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4)).eval()


def test_batch_norm_statistics_are_those_of_the_merged_network():
    model = normed(0)
    norms = NormStatistics(model, INPUTS, batch_size=100)
    merged = norms.merging(normed(1).state_dict(), normed(2).state_dict())(0.5)
    with torch.no_grad():
        activations = torch.nn.functional.conv2d(INPUTS, merged["0.weight"], merged["0.bias"])
    parts = activations.split(100)
    torch.testing.assert_close(merged["1.running_mean"], torch.stack([p.mean((0, 2, 3)) for p in parts]).mean(0))
    torch.testing.assert_close(merged["1.running_var"], torch.stack([p.var((0, 2, 3)) for p in parts]).mean(0))


def test_recomputing_leaves_model_inputs_and_everything_else_alone():
    model, state = normed(0), normed(1).state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = NormStatistics(model, INPUTS).recompute(state)
    assert {name for name in state if not torch.equal(state[name], found[name])} == {"1.running_mean", "1.running_var"}
    assert all(torch.equal(before[name], tensor) for name, tensor in state.items())
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert model[1].momentum == 0.1


def test_a_layer_that_is_called_twice_is_left_alone():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 2))
    assert Repair(model, torch.zeros(3, 4)).layers == ("3",)


def test_a_rest_of_one_sample_does_not_stop_the_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    inputs = torch.randn(9, 4)
    found = NormStatistics(model, inputs, batch_size=8).recompute(model.state_dict())
    torch.testing.assert_close(found["1.running_mean"], model[0](inputs[:8]).mean(0))


def test_a_model_that_is_one_layer_is_repaired():
    """Its tensors have no layer's name before theirs."""
    model, inputs = nn.Linear(3, 2), torch.randn(50, 3)
    other = nn.Linear(3, 2).state_dict()
    merged = Repair(model, inputs).merging(model.state_dict(), other)(0.5)
    assert set(merged) == {"weight", "bias"}
    assert all(bool(tensor.isfinite().all()) for tensor in merged.values())
