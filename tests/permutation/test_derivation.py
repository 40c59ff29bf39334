import pytest
import torch
from torch import nn
from torch.nn import functional

from fl_market.errors import MarketError
from fl_market.permutation import apply_permutation, derive_spec, random_permutation


def same_function(model, inputs, seed=0):
    """Relative error of the outputs after a random permutation of all groups of the spec."""
    spec = derive_spec(model, inputs)
    assert spec.groups, "nothing was found permutable"
    model.eval()
    with torch.no_grad():
        before = model(inputs)
        permuted = apply_permutation(spec, random_permutation(spec, seed), model)
        assert any(not torch.equal(permuted[name], tensor) for name, tensor in model.state_dict().items())
        after = torch.func.functional_call(model, permuted, (inputs,), tie_weights=False)
    return float((after - before).abs().max() / before.abs().max())


def test_mlp_groups_are_its_hidden_layers(mlp):
    spec = derive_spec(mlp, torch.zeros(2, 12))
    assert {name: group.size for name, group in spec.groups.items()} == {"1.weight": 9, "3.weight": 7}
    assert set(spec.groups["1.weight"].axes) == {("1.weight", 0), ("1.bias", 0), ("3.weight", 1)}
    assert {("1.weight", 1), ("5.weight", 0), ("5.bias", 0)} == set(spec.frozen)


@pytest.mark.parametrize("seed", range(5))
def test_permutation_leaves_the_function_unchanged(mlp, seed):
    assert same_function(mlp, torch.randn(5, 12), seed) < 1e-5


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.head(x + self.outer(torch.relu(self.inner(x))))


def test_a_residual_stream_is_one_group():
    spec = derive_spec(Residual(), torch.zeros(2, 6))
    assert set(spec.groups["first.weight"].axes) >= {("first.weight", 0), ("outer.weight", 0), ("head.weight", 1)}
    assert same_function(Residual(), torch.randn(4, 6)) < 1e-5


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 6)
        self.third, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
        self.third.weight = self.second.weight

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.head(torch.relu(self.third(torch.relu(self.second(x)))))


def test_tied_weights_are_permuted_under_both_names():
    spec = derive_spec(Tied(), torch.zeros(2, 4))
    assert {"second.weight", "third.weight"} <= {name for name, _ in spec.groups["first.weight"].axes}
    assert same_function(Tied(), torch.randn(4, 4)) < 1e-5


class Sorting(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(torch.cumsum(self.first(x), dim=1))


def test_an_unknown_operation_freezes_and_says_so():
    spec = derive_spec(Sorting(), torch.zeros(2, 4))
    assert not spec.groups
    assert "cumsum" in spec.frozen["first.weight", 0]
    assert "no rule for cumsum" in spec.describe()


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Hidden(nn.Module):
    """Two layers, and some operation on the units between them."""

    def __init__(self, operation):
        super().__init__()
        self.first, self.second, self.operation = nn.Linear(6, 8), nn.Linear(8, 3), operation
        self.top = nn.Parameter(torch.rand(8))

    def forward(self, x):
        return self.second(self.operation(self, self.first(x)))


@pytest.mark.parametrize(
    "operation",
    [
        lambda model, x: torch.clamp(x, max=model.top),
        lambda model, x: functional.pad(x, (1, -1)),
        lambda model, x: functional.max_pool1d(x, 3, 1, 1),
        lambda model, x: functional.avg_pool1d(x, 3, 1, 1),
        lambda model, x: x.clamp(min=-0.5),
    ],
)
def test_operations_on_neighbouring_units_or_bounds_leave_the_function_unchanged(operation):
    model = Hidden(operation)
    inputs = torch.randn(4, 6)
    spec = derive_spec(model, inputs)
    permuted = apply_permutation(spec, random_permutation(spec, 1), model)
    assert torch.allclose(torch.func.functional_call(model, permuted, (inputs,)), model(inputs), atol=1e-5)


def test_an_operation_with_two_results_is_no_error():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    inputs = torch.randn(2, 1, 6, 6)
    spec = derive_spec(model, inputs)
    permuted = apply_permutation(spec, random_permutation(spec, 1), model)
    assert torch.allclose(torch.func.functional_call(model, permuted, (inputs,)), model(inputs), atol=1e-5)


def test_a_model_that_cannot_be_traced_is_named():
    with pytest.raises(MarketError, match="Branching cannot be traced"):
        derive_spec(Branching(), torch.zeros(2, 4))


def test_deriving_leaves_the_model_as_it_was(mlp):
    mlp.train()
    before = {name: tensor.clone() for name, tensor in mlp.state_dict().items()}
    derive_spec(mlp, torch.zeros(2, 12))
    assert mlp.training
    assert all(torch.equal(before[name], tensor) for name, tensor in mlp.state_dict().items())
