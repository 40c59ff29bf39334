import pytest
import torch

from fl_market.errors import MarketError
from fl_market.parameters import check_parameters, digest

TEMPLATE = {"w": torch.zeros(2, 3), "n": torch.tensor(1)}


@pytest.mark.parametrize(
    ("received", "complaint"),
    [
        ({"w": torch.zeros(2, 3)}, "lack 'n'"),
        (TEMPLATE | {"x": torch.zeros(1)}, "contain 'x'"),
        (TEMPLATE | {"w": torch.zeros(3, 2)}, r"shape \(3, 2\)"),
        (TEMPLATE | {"w": torch.zeros(2, 3, dtype=torch.float64)}, "dtype torch.float64"),
        (TEMPLATE | {"w": torch.full((2, 3), float("nan"))}, "NaN"),
        (TEMPLATE | {"w": torch.full((2, 3), float("inf"))}, "infinite"),
    ],
)
def test_what_could_not_be_loaded_is_refused(received, complaint):
    with pytest.raises(MarketError, match=complaint):
        check_parameters(received, TEMPLATE)


def test_what_fits_passes():
    check_parameters({"n": torch.tensor(5), "w": torch.ones(2, 3)}, TEMPLATE)


def test_the_digest_sees_names_shapes_and_values_but_not_their_order():
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(True)}
    assert digest(state) == digest({"b": torch.tensor(True), "a": torch.arange(6.0).reshape(2, 3)})
    others = [
        {"a": torch.arange(6.0).reshape(3, 2), "b": torch.tensor(True)},
        {"a": torch.arange(6.0).reshape(2, 3), "c": torch.tensor(True)},
        {"a": torch.arange(6.0).reshape(2, 3) + 1e-6, "b": torch.tensor(True)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(False)},
    ]
    assert len({digest(state), *map(digest, others)}) == 5
