"""The conformance test of merge methods, and methods under repair and recomputed statistics."""

import re
from collections.abc import Mapping
from types import MappingProxyType

import pytest
import torch
from torch import nn

from fl_market.merging import MERGE_METHODS, MergeOnInputs, NormStatistics, Repair, interpolate, only_layers
from fl_market.merging.testing import check_merge_method
from fl_market.parameters import copied


def weight_of(alpha, name):
    return alpha[name] if isinstance(alpha, Mapping) else alpha


def curved(buyer, seller, alpha):
    """A method that is not linear in α, and does not end at the seller's model."""
    merged = copied(buyer)
    for name, tensor in buyer.items():
        if tensor.is_floating_point():
            step = 0.5 * weight_of(alpha, name) ** 2 + 0.25 * weight_of(alpha, name)
            merged[name] = (tensor + step * (seller[name] - tensor)).to(tensor.dtype)
    return merged


def as_numbers(buyer, seller, alpha):
    """Weights as plain numbers: nothing to differentiate, and no torch.vmap."""
    mean = (
        sum(float(weight.detach().mean()) for weight in alpha.values()) / len(alpha)
        if isinstance(alpha, Mapping)
        else alpha
    )
    return interpolate(buyer, seller, mean)


def one_weight_as_a_number(buyer, seller, alpha):
    if isinstance(alpha, Mapping):
        alpha = {name: weight.detach() if name == "scale" else weight for name, weight in alpha.items()}
    return interpolate(buyer, seller, alpha)


def changed(change):
    """Interpolation, with some change of its result."""

    def method(buyer, seller, alpha):
        merged = interpolate(buyer, seller, alpha)
        return change(merged, buyer, seller) or merged

    return method


def spoils_the_buyer(buyer, seller, alpha):
    merged = interpolate(buyer, seller, alpha)
    buyer["first.weight"].add_(1)
    return merged


def spoils_a_shared_tensor(buyer, seller, alpha):
    merged = interpolate(buyer, {name: tensor.clone() for name, tensor in seller.items()}, alpha)
    buyer["first.bias"].add_(1)
    return merged


def numbers_only(buyer, seller, alpha):
    return interpolate(buyer, seller, float(alpha))


def mappings_only(buyer, seller, alpha):
    return interpolate(buyer, seller, {name: alpha[name] for name in alpha})


def spherical(buyer, seller, alpha):
    """Slerp without care for vectors of one direction."""
    merged = copied(buyer)
    for name, tensor in buyer.items():
        if tensor.is_floating_point() and seller[name] is not tensor:
            weight, other = weight_of(alpha, name), seller[name]
            angle = torch.acos((tensor * other).sum() / (tensor.norm() * other.norm()))
            parts = torch.sin((1 - weight) * angle), torch.sin(weight * angle)
            merged[name] = ((parts[0] * tensor + parts[1] * other) / torch.sin(angle)).to(tensor.dtype)
    return merged


def without_shared(buyer, seller, alpha):
    return {
        name: tensor + weight_of(alpha, name) * tensor if tensor.is_floating_point() else tensor
        for name, tensor in buyer.items()
    }


OF_PARAMETERS = {name: method for name, method in MERGE_METHODS.items() if not isinstance(method, MergeOnInputs)}


@pytest.mark.parametrize("method", OF_PARAMETERS.values(), ids=OF_PARAMETERS)
def test_the_methods_of_the_package_pass(method):
    report = check_merge_method(method)
    assert (report.seller_at_one, report.symmetric, report.vectorised) == (True, True, True)


def test_the_report_of_a_method_of_another_kind():
    report = check_merge_method(curved)
    assert (report.seller_at_one, report.symmetric, report.vectorised) == (False, False, True)


def set_in(name, value):
    return lambda merged, buyer, seller: merged.__setitem__(name, value)


@pytest.mark.parametrize(
    ("method", "violation"),
    [
        (numbers_only, "forms of α"),
        (mappings_only, "forms of α"),
        (lambda buyer, seller, alpha: interpolate(seller, buyer, alpha), "buyer at zero"),
        (changed(set_in("first.weight", torch.zeros(4, 4))), "same tensors"),
        (changed(set_in("first.weight", torch.zeros(4, 3, dtype=torch.float16))), "same tensors"),
        (changed(set_in("further", torch.zeros(1))), "same tensors"),
        (changed(lambda merged, *_: merged.pop("scale") and None), "same tensors"),
        (changed(set_in("scale", torch.tensor(float("nan")))), "finite"),
        (spherical, "finite"),
        (changed(lambda merged, buyer, seller: merged | {"norm.num_batches_tracked": torch.tensor(9)}), "integers"),
        (without_shared, "shared tensors"),
        (spoils_the_buyer, "inputs"),
        (spoils_a_shared_tensor, "inputs"),
        (as_numbers, "differentiable"),
        (lambda buyer, seller, alpha: dict(buyer), "differentiable"),
        (one_weight_as_a_number, "differentiable"),
    ],
)
def test_a_bad_method_is_caught(method, violation):
    with pytest.raises(AssertionError, match=f"must not be used: .*{re.escape(violation)}: "):
        check_merge_method(method)


def test_all_violations_are_named_at_once():
    def bad(buyer, seller, alpha):
        buyer["first.weight"].zero_()
        return {
            name: tensor * float("nan") if tensor.is_floating_point() else tensor for name, tensor in seller.items()
        }

    with pytest.raises(
        AssertionError, match=r"'bad' must not be used: differentiable: .*; finite: .*; inp.*; integers: "
    ):
        check_merge_method(bad)


def network(seed, norm):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), norm, nn.ReLU(), nn.Linear(6, 2)).eval()


@pytest.mark.parametrize(("repair", "norm"), [(Repair, nn.Identity()), (NormStatistics, nn.BatchNorm1d(6))])
def test_the_result_of_a_method_is_left_alone(repair, norm):
    own, other = (network(seed, norm).state_dict() for seed in (0, 1))
    bought = only_layers(own, other, ("3",))

    def method(buyer, seller, alpha):
        return MappingProxyType(interpolate(buyer, seller, alpha))

    merged = repair(network(2, norm), torch.randn(64, 4)).merging(own, bought, method)(0.6)
    assert all(torch.equal(merged[name], own[name]) for name in own if not name.startswith("3"))


@pytest.mark.parametrize(("repair", "norm"), [(Repair, nn.Identity()), (NormStatistics, nn.BatchNorm1d(6))])
def test_a_repair_works_on_top_of_any_method(repair, norm):
    inputs = torch.randn(64, 4)
    own, other = (network(seed, norm).state_dict() for seed in (0, 1))
    made = []

    def method(buyer, seller, alpha):
        made.append(curved(buyer, seller, alpha))
        return made[-1]

    mended = repair(network(2, norm), inputs)
    merged = mended.merging(own, other, method)(0.6)
    assert len(made) == 1
    assert any(not torch.equal(merged[name], tensor) for name, tensor in made[0].items()), "something was mended"
    default = mended.merging(own, other)(0.6)
    assert any(not torch.equal(merged[name], tensor) for name, tensor in default.items())
    assert all(torch.equal(made[0][name], tensor) for name, tensor in curved(own, other, 0.6).items())
