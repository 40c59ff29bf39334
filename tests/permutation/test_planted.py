"""Matching recovers the exact permutation between a network and its noisy permuted copy."""

import numpy as np
import pytest
import torch
from torch import nn

from fl_market.permutation import apply_permutation, derive_spec, invert, match, random_permutation


class Residual(nn.Module):
    """Blocks on a stream of 30 units, with 50 inside and 10 inputs."""

    def __init__(self, blocks):
        super().__init__()
        self.first, self.head = nn.Linear(10, 30), nn.Linear(30, 5)
        self.inner = nn.ModuleList(nn.Linear(30, 50) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(50, 30) for _ in range(blocks))

    def forward(self, x):
        x = self.first(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(torch.relu(inner(x)))
        return self.head(x)


def perceptron(depth):
    hidden = [part for _ in range(depth - 1) for part in (nn.Linear(30, 30), nn.ReLU())]
    return nn.Sequential(nn.Linear(10, 30), nn.ReLU(), *hidden, nn.Linear(30, 5))


@pytest.mark.parametrize(
    ("build", "size"), [(perceptron, 1), (perceptron, 3), (perceptron, 10), (Residual, 1), (Residual, 2), (Residual, 3)]
)
def test_at_least_95_of_100_draws_are_recovered(build, size):
    spec = derive_spec(build(size), torch.zeros(2, 10))
    recovered = 0
    for seed in range(100):
        torch.manual_seed(seed)
        state = build(size).state_dict()
        planted = random_permutation(spec, seed)
        noisy = {name: tensor + 0.05 * tensor.std() * torch.randn_like(tensor) for name, tensor in state.items()}
        found = match(spec, state, apply_permutation(spec, planted, noisy), seed=seed)
        expected = invert(spec, planted)
        recovered += all(np.array_equal(found[name], expected[name]) for name in spec.groups)
    assert recovered >= 95
