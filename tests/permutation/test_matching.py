import itertools

import numpy as np
import pytest
import torch
from torch import nn

from fl_market.errors import MarketError
from fl_market.permutation import (
    apply_permutation,
    derive_spec,
    identity_permutation,
    invert,
    match,
    match_many,
    objective,
    random_permutation,
)


def pair(widths, seed):
    """A spec and two independent networks."""
    torch.manual_seed(seed)

    def build():
        layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers[:-1])

    first, second = build(), build()
    return derive_spec(first, torch.zeros(2, widths[0])), first.state_dict(), second.state_dict()


@pytest.mark.parametrize("seed", range(10))
def test_a_planted_permutation_is_recovered(seed):
    spec, state, _ = pair((10, 20, 20, 5), seed)
    planted = random_permutation(spec, seed)
    noisy = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in state.items()}
    found = match(spec, state, apply_permutation(spec, planted, noisy), seed=seed)
    assert all(np.array_equal(found[name], invert(spec, planted)[name]) for name in spec.groups)


@pytest.mark.parametrize("seed", range(5))
def test_one_hidden_layer_is_matched_as_well_as_by_brute_force(seed):
    spec, first, second = pair((3, 5, 2), seed)
    (name,) = spec.groups
    best = max(objective(spec, first, second, {name: np.array(order)}) for order in itertools.permutations(range(5)))
    assert objective(spec, first, second, match(spec, first, second)) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(5))
def test_matching_never_lowers_the_objective(seed):
    spec, first, second = pair((6, 8, 8, 8, 3), seed)
    start = random_permutation(spec, seed)
    found = match(spec, first, second, start=start)
    assert objective(spec, first, second, found) >= objective(spec, first, second, start)


def test_the_inverse_is_the_match_in_the_other_direction():
    spec, first, second = pair((6, 8, 8, 3), 0)
    found = match(spec, first, second)
    assert objective(spec, first, second, found) == pytest.approx(objective(spec, second, first, invert(spec, found)))


def test_many_models_come_into_one_order():
    """Five noisy permuted copies, in any order: along every path all are the same network again."""
    spec, state, _ = pair((6, 12, 12, 3), 4)
    copies = [
        apply_permutation(
            spec, random_permutation(spec, k), {n: t + 0.02 * torch.randn_like(t) for n, t in state.items()}
        )
        for k in range(5)
    ]
    orders = match_many(spec, copies)
    common = [apply_permutation(spec, order, copy) for order, copy in zip(orders, copies, strict=True)]
    for other in common[1:]:
        for name, tensor in common[0].items():
            assert (tensor - other[name]).abs().max() < 0.2

    def step(i, j, model):
        return apply_permutation(spec, invert(spec, orders[j]), apply_permutation(spec, orders[i], model))

    direct, around = step(0, 2, copies[0]), step(1, 2, step(0, 1, copies[0]))
    assert all(torch.equal(direct[name], around[name]) for name in direct)


def test_matching_many_is_matching_for_two():
    spec, first, second = pair((6, 8, 8, 3), 2)
    orders = match_many(spec, [first, second])
    direct = match(spec, first, second)
    assert all(np.array_equal(orders[1][name], direct[name]) for name in spec.groups)
    with pytest.raises(MarketError, match="at least one"):
        match_many(spec, [])


def test_matching_depends_on_the_seed_alone():
    spec, first, second = pair((6, 8, 8, 8, 3), 1)
    again = [match(spec, first, second, seed=3) for _ in range(2)]
    assert all(np.array_equal(again[0][name], again[1][name]) for name in spec.groups)


@pytest.mark.parametrize("break_it", [lambda p: p.pop("0.weight"), lambda p: p["0.weight"].fill(0)])
def test_a_permutation_of_something_else_is_refused(break_it):
    spec, first, _ = pair((3, 4, 2), 0)
    permutation = identity_permutation(spec)
    break_it(permutation)
    with pytest.raises(MarketError, match=r"0\.weight"):
        apply_permutation(spec, permutation, first)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e37])
def test_parameters_that_overflow_are_matched_somehow(value):
    """The average of diverged models must not end a run: its merge is worth nothing."""
    spec, first, second = pair((4, 6, 3), 0)
    overflown = {name: torch.full_like(tensor, value) for name, tensor in first.items()}
    for order in match(spec, overflown, second).values():
        assert sorted(order.tolist()) == list(range(len(order)))
