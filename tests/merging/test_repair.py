import pytest
import torch
from torch import nn

from fl_market.merging import Repair, interpolate


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 12), nn.ReLU(), nn.Linear(12, 4)
    )


INPUTS = torch.randn(200, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def merged_with(alpha):
    own, other = network(1).state_dict(), network(2).state_dict()
    repair = Repair.for_model(network(0), INPUTS)
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


def test_without_it_the_variance_collapses():
    repair, own, other, (own_statistics, _), _ = merged_with(0.5)
    plain = repair.statistics(interpolate(own, other, 0.5))
    assert plain["5"][1].mean() < 0.7 * own_statistics["5"][1].mean()


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_at_both_ends_it_changes_nothing(alpha):
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


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(8), nn.LayerNorm(8), nn.GroupNorm(2, 8)])
def test_networks_with_normalisation_layers_are_left_alone(norm):
    assert Repair.for_model(nn.Sequential(nn.Linear(4, 8), norm, nn.Linear(8, 2)), torch.zeros(3, 4)) is None


def test_a_layer_that_is_called_twice_is_left_alone():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 2))
    assert Repair.for_model(model, torch.zeros(3, 4)).layers == ("3",)
