"""The alignment methods of a market, and their conformance test."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from fl_market.permutation import (
    ALIGNMENT_METHODS,
    AlignmentContext,
    derive_spec,
    identity_permutation,
    match,
    methods,
    random_permutation,
)
from fl_market.permutation.methods import align_activations, align_weights
from fl_market.permutation.testing import check_alignment_method
from tests.permutation.networks import own


@pytest.mark.parametrize(("name", "observes", "least"), [("weights", False, 0.99), ("activations", True, 0.99)])
def test_the_methods_of_the_package_pass(name, observes, least):
    report = check_alignment_method(ALIGNMENT_METHODS[name])
    assert report.observes == observes
    assert report.recovered >= least


def test_no_alignment_passes_and_recovers_next_to_nothing():
    report = check_alignment_method(ALIGNMENT_METHODS["none"])
    assert not report.observes
    assert report.recovered < 0.5


def mutating(change):
    """Weight matching, with a change of one of its arguments."""

    def method(spec, reference, other, context):
        found = align_weights(spec, reference, other, context)
        change(reference, other, context)
        return found

    return method


def with_orders(change):
    """The identity, with a change of each order."""
    return lambda spec, *_: {name: change(order) for name, order in identity_permutation(spec).items()}


def first(state):
    return next(iter(state.values()))


def when_given(part, change):
    return lambda reference, other, context: getattr(context, part) is not None and change(getattr(context, part))


@pytest.mark.parametrize(
    ("method", "violation"),
    [
        (with_orders(np.zeros_like), "permutation of the spec"),
        (with_orders(lambda order: order[:-1]), "permutation of the spec"),
        (with_orders(lambda order: order.astype(float)), "permutation of the spec"),
        (lambda *_: {}, "permutation of the spec"),
        (lambda spec, a, b, context: random_permutation(spec, len(context.inputs)), "permutation of the spec"),
        (mutating(lambda reference, other, context: first(other).mul_(2)), "function unchanged"),
        (lambda spec, *_: random_permutation(spec, int(np.random.randint(10**6))), "same seed, same result"),  # noqa: NPY002
        (mutating(lambda reference, other, context: first(reference).mul_(2)), "inputs"),
        (mutating(when_given("inputs", lambda inputs: inputs.mul_(2))), "inputs"),
        (mutating(when_given("model", lambda model: model.train())), "inputs"),
        (mutating(when_given("model", lambda model: first(model.state_dict()).mul_(2))), "inputs"),
        (mutating(when_given("start", lambda start: first(start).sort())), "inputs"),
        (lambda spec, *_: random_permutation(spec, 1), "itself"),
    ],
)
def test_a_bad_method_is_caught(method, violation):
    with pytest.raises(AssertionError, match=f"must not be used: .*{re.escape(violation)}: "):
        check_alignment_method(method)


def test_all_violations_are_named_at_once():
    def bad(spec, reference, other, context):
        first(other).mul_(2)
        return random_permutation(spec, 1)

    with pytest.raises(AssertionError, match=r"'bad' must not be used: function unchanged: .*; inputs: .*; itself: "):
        check_alignment_method(bad)


def same(spec, one, other):
    return all(np.array_equal(one[name], other[name]) for name in spec.groups)


def two_networks():
    torch.manual_seed(0)
    one, other = (
        nn.Sequential(
            nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)
        )
        for _ in range(2)
    )
    return derive_spec(one, torch.zeros(1, 6)), one, other


def test_methods_are_the_public_match():
    spec, one, other = two_networks()
    inputs, states = torch.randn(40, 6), (one.state_dict(), other.state_dict())
    observed = match(spec, one, other, method="activations", batches=[inputs])
    assert same(spec, align_activations(spec, *states, AlignmentContext(model=one, inputs=inputs)), observed)
    by_weights = [align_weights(spec, *states, AlignmentContext(start=random_permutation(spec, k))) for k in range(9)]
    expected = [match(spec, one, other, start=random_permutation(spec, k)) for k in range(9)]
    assert all(same(spec, found, wanted) for found, wanted in zip(by_weights, expected, strict=True))
    assert not all(same(spec, found, by_weights[0]) for found in by_weights), "the start makes a difference"


def test_methods_pass_the_seed_on(monkeypatch):
    spec, one, other = two_networks()
    seeds = []
    for name in ("match_weights", "match_observed"):
        monkeypatch.setattr(methods, name, lambda *_, seed, **__: seeds.append(seed))
    context = AlignmentContext(seed=7, model=one, inputs=torch.randn(40, 6))
    for method in (align_weights, align_activations):
        method(spec, one.state_dict(), other.state_dict(), context)
    assert seeds == [7, 7]


def test_without_a_model_activations_are_not_observed_and_weights_decide():
    spec, one, other = two_networks()
    states = one.state_dict(), other.state_dict()
    seeing = AlignmentContext(model=one, inputs=torch.randn(40, 6))
    by_weights = align_weights(spec, *states, AlignmentContext())
    for blind in (AlignmentContext(), AlignmentContext(model=one), AlignmentContext(inputs=torch.randn(40, 6))):
        assert same(spec, align_activations(spec, *states, blind), by_weights)
    assert not same(spec, align_activations(spec, *states, seeing), by_weights)


def test_the_model_of_the_context_is_an_architecture_only():
    """Its own parameters have no effect, and do not change."""
    spec, one, other = two_networks()
    inputs, states = torch.randn(40, 6), (one.state_dict(), other.state_dict())
    third, _ = two_networks()[1:]
    nn.init.zeros_(third[0].weight)
    third.train()
    found = align_activations(spec, *states, AlignmentContext(model=third, inputs=inputs))
    assert same(spec, found, align_activations(spec, *states, AlignmentContext(model=one, inputs=inputs)))
    assert third.training
    assert not third[0].weight.any()


def test_token_models_are_observed():
    model, tokens = own("GPT")
    spec = derive_spec(model, tokens)
    context = AlignmentContext(model=model, inputs=tokens)
    state = model.state_dict()
    assert same(spec, align_activations(spec, state, state, context), identity_permutation(spec))
