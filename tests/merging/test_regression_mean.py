"""The regression mean, against least squares and at its ends."""

import pytest
import torch
from torch import nn

from fl_market.cli import main
from fl_market.merging import interpolate
from fl_market.merging import regression_mean as module
from fl_market.merging.regression_mean import regression_mean


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """No reduction and no ridge: then it is the least-squares solution."""
    monkeypatch.setattr(module, "REDUCTION", 1.0)
    monkeypatch.setattr(module, "RIDGE", 0.0)
    torch.manual_seed(0)


def models(build, count=2):
    return [{name: tensor.detach().clone() for name, tensor in build().state_dict().items()} for _ in range(count)]


def test_one_layer_is_the_least_squares_solution_on_both_models_inputs():
    """The second layer's inputs differ between the models; the oracle stacks both."""

    def build():
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()

    (own, other), inputs, alpha = models(build), torch.randn(200, 4, dtype=torch.float64), 0.3
    found = regression_mean(own, other, build(), inputs)(alpha)
    hidden = [torch.relu(inputs @ state["0.weight"].T + state["0.bias"]) for state in (own, other)]
    with_one = [torch.cat([vectors, torch.ones(len(vectors), 1)], 1) for vectors in hidden]
    answers = [h @ state["2.weight"].T + state["2.bias"] for h, state in zip(hidden, (own, other), strict=True)]
    roots = (1 - alpha) ** 0.5, alpha**0.5
    stacked = torch.cat([root * vectors for root, vectors in zip(roots, with_one, strict=True)])
    wanted = torch.cat([root * answer for root, answer in zip(roots, answers, strict=True)])
    solution = torch.linalg.lstsq(stacked, wanted).solution.T
    torch.testing.assert_close(found["2.weight"], solution[:, :-1])
    torch.testing.assert_close(found["2.bias"], solution[:, -1])


def test_of_the_same_inputs_it_is_the_interpolation():
    (own, other), inputs = models(lambda: nn.Linear(4, 3)), torch.randn(50, 4)
    merge = regression_mean(own, other, nn.Linear(4, 3), inputs)
    for alpha in (0.0, 0.4, 1.0):
        for name, tensor in interpolate(own, other, alpha).items():
            torch.testing.assert_close(merge(alpha)[name], tensor, rtol=1e-4, atol=1e-5)


def build_convolutions():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 2, bias=False),
    )


def test_the_ends_are_the_two_models():
    """Convolutions, a layer without bias, and tensors that are interpolated."""
    (own, other), inputs = models(build_convolutions), torch.randn(300, 2, 4, 4)
    merge = regression_mean(own, other, build_convolutions().eval(), inputs)
    for alpha, end in ((0.0, own), (1.0, other)):
        merged = merge(alpha)
        assert merged.keys() == own.keys()
        for name, tensor in end.items():
            if tensor.is_floating_point():
                torch.testing.assert_close(merged[name], tensor, rtol=1e-3, atol=1e-3)
            assert merged[name].dtype == tensor.dtype


def test_an_input_that_is_always_zero_does_no_harm(monkeypatch):
    monkeypatch.setattr(module, "RIDGE", 1e-6)
    (own, other), inputs = models(lambda: nn.Linear(4, 3)), torch.randn(50, 4) * torch.tensor([1.0, 1.0, 1.0, 0.0])
    merged = regression_mean(own, other, nn.Linear(4, 3), inputs)(0.5)
    assert all(bool(tensor.isfinite().all()) for tensor in merged.values())


def test_what_is_not_for_sale_stays():
    own, other = models(build_convolutions)
    other["4.weight"] = own["4.weight"]
    merged = regression_mean(own, other, build_convolutions(), torch.randn(300, 2, 4, 4))(0.5)
    assert merged["4.weight"] is own["4.weight"]
    assert not torch.equal(merged["0.weight"], own["0.weight"])


def test_a_layer_that_is_called_twice_is_interpolated():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, inputs):
            return self.layer(torch.relu(self.layer(inputs)))

    (own, other), inputs = models(Twice), torch.randn(50, 3)
    merged = regression_mean(own, other, Twice(), inputs)(0.5)
    assert all(torch.equal(merged[name], tensor) for name, tensor in interpolate(own, other, 0.5).items())


def test_absurd_parameters_raise_nothing():
    (own, other), inputs = models(lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))), torch.randn(50, 4)
    other = {name: torch.full_like(tensor, 3e38) for name, tensor in other.items()}
    merged = regression_mean(own, other, nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), inputs)(0.5)
    assert not all(bool(tensor.isfinite().all()) for tensor in merged.values())


def test_weights_by_row_are_refused():
    own, other = models(lambda: nn.Linear(4, 3))
    with pytest.raises(TypeError, match="one purchased weight"):
        regression_mean(own, other, nn.Linear(4, 3), torch.randn(5, 4))({"weight": torch.ones(3, 1)})


@pytest.mark.flower
@pytest.mark.parametrize("arm", ["market", "market-fine"])
def test_a_market_merges_by_it(tmp_path, arm, capsys, monkeypatch):
    monkeypatch.undo()
    arguments = ["run", "--engine", "inline", "--strategy", arm, "--merge", "regression-mean", "--rounds", "3"]
    assert main([*arguments, "--first-round", "2", "--learning-rate", "0.1", "--out", str(tmp_path / "run")]) == 0
    assert " 0 / " not in capsys.readouterr().out, "purchases took place"
