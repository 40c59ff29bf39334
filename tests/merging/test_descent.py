import pytest
import torch

from fl_market.data import Batch
from fl_market.merging import hold_out
from fl_market.merging.descent import HELD_OUT_EVERY, descend, whole_batches


def test_the_held_out_part_is_the_last_fifth():
    seen, held_out = hold_out((torch.arange(10), torch.arange(10)))
    assert seen[0].tolist() == list(range(8))
    assert held_out[1].tolist() == [8, 9]
    assert len(hold_out((torch.arange(2), torch.arange(2)))[1][0]) == 1, "at least one sample stops the steps"


@pytest.mark.parametrize(("size", "sizes"), [(0, [10]), (3, [3, 3, 3]), (10, [10]), (11, [10])])
def test_batches_are_whole(size, sizes):
    assert [len(batch[0]) for batch in whole_batches((torch.arange(10), torch.arange(10)), size)] == sizes


def targets(seen: float, held_out: float) -> Batch:
    """Ten samples: eight that the steps see, and two that stop them."""
    return (torch.tensor([seen] * 8 + [held_out] * 2),)


def distance(state, data):
    return (state["w"] - data[0]).square()


def test_the_point_that_is_best_on_the_held_out_part_is_returned():
    """The steps go from 0 to 1; of the points on the way, 0.5 is wanted."""
    variables = {"w": torch.zeros(1, requires_grad=True)}
    found = descend(variables, lambda some: some, distance, targets(1.0, 0.5), steps=100, learning_rate=0.05)
    assert found.variables["w"].item() == pytest.approx(0.5, abs=0.03)
    assert found.loss == pytest.approx(0.0, abs=1e-3)
    assert not found.variables["w"].requires_grad
    assert variables["w"].item() > 0.9, "the variables are left where the last step took them"


def test_the_start_counts_where_the_steps_only_harm_or_no_loss_is_finite():
    for held_out, loss in ((0.0, 0.0), (float("nan"), float("inf"))):
        variables = {"w": torch.zeros(1, requires_grad=True)}
        found = descend(variables, lambda some: some, distance, targets(1.0, held_out), steps=5, learning_rate=0.1)
        assert found.variables["w"].item() == 0
        assert found.loss == loss


def test_batches_take_turns_and_the_held_out_part_is_evaluated_every_fifth_step():
    data, seen = (torch.arange(10.0),), []

    def loss(state, batch):
        seen.append(batch[0].tolist())
        return distance(state, batch)

    variables = {"w": torch.zeros(1, requires_grad=True)}
    descend(variables, lambda some: some, loss, data, steps=7, learning_rate=0.1, batch_size=4)
    held_out, first, second = [8.0, 9.0], [0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]
    assert HELD_OUT_EVERY == 5
    assert seen == [held_out, first, second, first, second, first, held_out, second, first, held_out]
