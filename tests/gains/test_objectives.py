import math

import pytest
import torch

from fl_market.errors import MarketError
from fl_market.gains import Objective, weighted_objective


def losses(state, data):
    return data[0]


def purpose():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    data = torch.tensor([1.0, 3.0, 10.0, 30.0, 100.0, 300.0]), labels
    return Objective(losses, data, data)


def test_classes_count_as_much_as_they_are_wanted():
    wanted = weighted_objective(purpose(), [3.0, 1.0, 0.0])
    assert wanted.certify[1].tolist() == [0, 0, 1, 1], "what is not wanted is left out"
    found = wanted.loss({}, wanted.certify)
    assert found.tolist() == pytest.approx([1.5, 4.5, 5.0, 15.0])
    assert float(found.mean()) == pytest.approx((3 * 2 + 1 * 20) / 4)


def test_even_weights_change_nothing():
    even = weighted_objective(purpose(), [2.0, 2.0, 2.0])
    assert torch.equal(even.loss({}, even.fit), purpose().fit[0])


@pytest.mark.parametrize(
    "weights",
    [[], [1.0], [1.0, 1.0, 1.0, 1.0], [1.0, math.nan, 1.0], [1.0, math.inf, 1.0], [-1.0, 1.0, 1.0], [0.0] * 3],
)
def test_weights_that_are_no_profile(weights):
    with pytest.raises(MarketError, match="a buyer's profile must"):
        weighted_objective(purpose(), weights)
