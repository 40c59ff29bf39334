import pytest
import torch

from fl_market.data import batches_of


@pytest.mark.parametrize(
    ("samples", "size", "sizes"),
    [(7, 3, [3, 4]), (6, 3, [3, 3]), (8, 3, [3, 3, 2]), (4, 9, [4]), (1, 3, [1]), (3, 1, [1, 1, 1]), (0, 3, [0])],
)
def test_a_last_batch_of_one_sample_joins_the_one_before_it(samples, size, sizes):
    order = torch.randperm(samples)
    batches = batches_of(order, size)
    assert [len(batch) for batch in batches] == sizes
    assert torch.equal(torch.cat(batches), order)
