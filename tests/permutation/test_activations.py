"""Matching by activations, and what coordinate descent promises."""

import itertools

import numpy as np
import pytest
import torch

from fl_market.errors import MarketError
from fl_market.permutation import (
    apply_permutation,
    derive_spec,
    identity_permutation,
    invert,
    match,
    objective,
    random_permutation,
)
from fl_market.permutation.similarity import Similarities
from fl_market.tasks.resnet import ResNet
from tests.permutation.networks import own, randomised


def planted(model, spec, noise):
    state = model.state_dict()
    noisy = {
        name: tensor + noise * tensor.std() * torch.randn_like(tensor)
        if tensor.is_floating_point() and tensor.numel() > 1
        else tensor
        for name, tensor in state.items()
    }
    permutation = random_permutation(spec, 3)
    return permutation, apply_permutation(spec, permutation, noisy)


@pytest.mark.parametrize("norm", ["batch", "layer", "group"])
def test_activations_recover_a_planted_permutation_of_a_residual_network(norm):
    torch.manual_seed(0)
    model, other = randomised(ResNet(blocks=1, norm=norm)), randomised(ResNet(blocks=1, norm=norm))
    images = torch.randn(64, 3, 16, 16)
    spec = derive_spec(model, images[:2])
    permutation, state = planted(model, spec, 0.02)
    other.load_state_dict(state)
    other.train()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    found = match(spec, model, other, method="activations", batches=images.split(32))
    expected = invert(spec, permutation)
    assert all(np.array_equal(found[name], expected[name]) for name in spec.groups)
    assert other.training, "the mode stays as it was"
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_units_that_cannot_be_observed_are_matched_by_weights():
    torch.manual_seed(0)
    model, tokens = own("GPT")
    other, _ = own("GPT")
    spec = derive_spec(model, tokens)
    permutation = random_permutation(spec, 3)
    other.load_state_dict(apply_permutation(spec, permutation, model))
    found = match(spec, model, other, method="activations", batches=[tokens])
    heads = next(name for name in spec.groups if "heads" in name)
    back = apply_permutation(spec, found, other)
    agreed = sum(torch.allclose(back[name], tensor) for name, tensor in model.state_dict().items())
    assert np.array_equal(found[heads], invert(spec, permutation)[heads])
    assert agreed == len(back)


@pytest.mark.parametrize("options", [{"method": "magic"}, {"method": "activations"}])
def test_bad_requests_are_refused(options):
    model, inputs = own("Gated")
    with pytest.raises(MarketError, match=r"one of weights, activations; got 'magic'|needs two modules and batches"):
        match(derive_spec(model, inputs), model, model.state_dict(), **options)


@pytest.mark.parametrize("name", ["Gated", "Grouped", "GPT", "Volume"])
def test_the_objective_never_falls_and_depends_on_the_seed_alone(name, monkeypatch):
    torch.manual_seed(1)
    model, inputs = own(name)
    other, _ = own(name)
    spec = derive_spec(model, inputs)
    reference = {key: tensor.float() for key, tensor in model.state_dict().items()}
    history = []
    weights, nothing = spec.of_parameters(), identity_permutation(spec)
    reorder = Similarities.reorder

    def watched(self, group, order):
        history.append(objective(weights, reference, self.aligned, nothing))
        changed = reorder(self, group, order)
        history.append(objective(weights, reference, self.aligned, nothing))
        for key in spec.groups:
            assert torch.allclose(self[key], self.computed(key), atol=1e-4), "kept up to date, as if computed anew"
        return changed

    monkeypatch.setattr(Similarities, "reorder", watched)
    start = random_permutation(spec, 5)
    found = match(spec, model, other, start=start)
    assert history
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(history))
    again = match(spec, model, other, start=start)
    assert all(np.array_equal(found[key], again[key]) for key in spec.groups)


def test_running_statistics_are_permuted_but_do_not_decide():
    torch.manual_seed(0)
    model, other = randomised(ResNet(blocks=1)), randomised(ResNet(blocks=1))
    spec = derive_spec(model, torch.randn(2, 3, 16, 16))
    assert spec.buffers == {name for name, _ in model.named_buffers()}
    found = match(spec, model, other)
    strange = {
        name: torch.rand_like(tensor) if name in spec.buffers and tensor.dim() else tensor
        for name, tensor in other.state_dict().items()
    }
    again = match(spec, model, strange)
    assert all(np.array_equal(found[name], again[name]) for name in spec.groups)
    moved = apply_permutation(spec, found, strange)
    assert not torch.equal(moved["norm.running_mean"], strange["norm.running_mean"])
