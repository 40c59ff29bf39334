import pytest
import torch

from fl_market.errors import MarketError
from fl_market.merging import interpolate

BUYER = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "count": torch.tensor(7)}
SELLER = {"w": torch.tensor([[3.0, 0.0], [1.0, 8.0]]), "count": torch.tensor(9)}


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(0.0, BUYER["w"]), (1.0, SELLER["w"]), (0.5, [[2.0, 1.0], [2.0, 6.0]]), (0.25, [[1.5, 1.5], [2.5, 5.0]])],
)
def test_one_weight(alpha, expected):
    merged = interpolate(BUYER, SELLER, alpha)
    assert torch.equal(merged["w"], torch.as_tensor(expected))
    assert merged["count"] == 7, "counters stay the buyer's"


def test_a_weight_for_each_row():
    merged = interpolate(BUYER, SELLER, {"w": torch.tensor([[0.0], [1.0]])})
    assert torch.equal(merged["w"], torch.tensor([[1.0, 2.0], [1.0, 8.0]]))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), {}])
def test_an_invalid_weight_is_refused(alpha):
    with pytest.raises(MarketError, match="purchased weight"):
        interpolate(BUYER, SELLER, alpha)


def test_models_of_other_names_are_refused():
    with pytest.raises(MarketError, match="same names"):
        interpolate(BUYER, {"other": torch.zeros(1)}, 0.5)
