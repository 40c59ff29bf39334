"""Random permutations drawn from the spec leave the outputs of real networks unchanged."""

import sys
from functools import partial

import numpy as np
import pytest
import torch

from fl_market.permutation import apply_permutation, derive_spec, invert, match, random_permutation
from fl_market.tasks.digits_vit import build_vit
from fl_market.tasks.resnet import ResNet
from tests.permutation.networks import classifier, own, randomised

# least share of permutable positions on the first two axes of all parameters
SHARES = {
    "resnet18": 0.90,
    "resnet50": 0.98,
    "vgg11_bn": 0.96,
    "densenet121": 0.98,
    "mobilenet_v3_small": 0.94,
    "efficientnet_b0": 0.98,
    "convnext_tiny": 0.98,
    "shufflenet_v2_x1_0": 0.93,
    "vit_b_16": 0.99,
    "regnet_y_400mf": 0.96,
    "googlenet": 0.96,
    "swin_t": 0.70,
}
OWN = {"GPT": 0.93, "ByHand": 0.93, "Gated": 0.75, "Grouped": 0.70, "Sequence": 0.60, "Volume": 0.40}


def permutable_share(model, spec):
    covered = {}
    for group in spec.groups.values():
        for use in group.uses:
            covered.setdefault((use.tensor, use.axis), set()).update(use.positions.ravel().tolist())
    axes = [
        (name, axis, tensor.shape[axis])
        for name, tensor in model.named_parameters()
        for axis in range(min(2, tensor.dim()))
    ]
    return sum(len(covered.get((name, axis), ())) for name, axis, _ in axes) / sum(size for *_, size in axes)


def check(model, inputs, share, capsys):
    spec = derive_spec(model, inputs)
    permutation = random_permutation(spec, 1)
    permuted = apply_permutation(spec, permutation, model)
    with torch.no_grad():
        before = model(inputs)
        after = torch.func.functional_call(model, permuted, (inputs,), tie_weights=False)
    assert float((after - before).abs().max() / before.abs().max()) <= 1e-4
    found = permutable_share(model, spec)
    with capsys.disabled():
        sys.stdout.write(f"\n{type(model).__name__}: {100 * found:.1f} % permutable in {len(spec.groups)} groups ")
    assert found >= share
    back = apply_permutation(spec, invert(spec, permutation), permuted)
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())
    return spec


@pytest.mark.parametrize(("name", "share"), SHARES.items())
def test_torchvision_classifiers(name, share, capsys):
    torch.manual_seed(0)
    check(*classifier(name), share, capsys)


@pytest.mark.parametrize(("name", "share"), OWN.items())
def test_other_networks(name, share, capsys):
    torch.manual_seed(0)
    check(*own(name), share, capsys)


@pytest.mark.parametrize("name", ["GPT", "ByHand"])
def test_heads_are_permuted_as_wholes_and_units_inside_them(name):
    spec = derive_spec(*own(name))
    (heads,) = [group for key, group in spec.groups.items() if "heads" in key]
    assert heads.size == 4
    assert {("attention.weight", 0), ("attention.bias", 0), ("projection.weight", 1)} == set(heads.axes)
    inside = [group for group in spec.groups.values() if group.inside is not None]
    assert len(inside) == 2 * 4, "in each head one permutation for q and k, and another for v"
    assert {group.size for group in inside} == {8}
    assert sum(("projection.weight", 1) in group.axes for group in inside) == 4


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_permutation_of_heads_is_recovered(seed):
    torch.manual_seed(seed)
    model, inputs = own("GPT")
    spec = derive_spec(model, inputs)
    planted = random_permutation(spec, seed)
    noisy = {
        name: tensor + 0.01 * tensor.std() * torch.randn_like(tensor) for name, tensor in model.state_dict().items()
    }
    noisy["head.weight"] = noisy["tokens.weight"]
    found = match(spec, model, apply_permutation(spec, planted, noisy), seed=seed)
    expected = invert(spec, planted)
    assert all(np.array_equal(found[name], expected[name]) for name in spec.groups)


@pytest.mark.parametrize(
    ("build", "size", "share"),
    [
        (ResNet, (3, 32, 32), 0.99),
        (partial(ResNet, widen=6, norm="layer"), (3, 32, 32), 0.99),
        (partial(ResNet, norm="group"), (3, 32, 32), 0.99),
        (build_vit, (1, 28, 28), 0.97),
    ],
)
def test_the_networks_of_the_tasks(build, size, share, capsys):
    torch.manual_seed(0)
    check(randomised(build()), torch.randn(2, *size), share, capsys)


def test_units_of_different_groups_of_a_norm_stay_apart():
    spec = derive_spec(*own("Grouped"))
    sizes = sorted(group.size for group in spec.groups.values() if ("norm.weight", 0) in group.axes)
    # four groups of the convolution and three of the norm cut twelve channels into 3, 1, 2, 2, 1,
    # 3; a single unit cannot be permuted
    assert sizes == [2, 2, 3, 3]
