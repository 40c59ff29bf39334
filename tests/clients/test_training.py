import pytest
import torch
from torch import nn

from clients.training import evaluate, train
from fl_market.data import batches_of
from fl_market.errors import MarketError
from fl_market.parameters import digest


def test_training_learns_and_depends_on_its_stream_alone():
    torch.manual_seed(0)
    inputs = torch.randn(300, 4)
    data, criterion = (inputs, (inputs[:, 0] > 0).long()), nn.CrossEntropyLoss(reduction="none")
    start = nn.Linear(4, 2)
    states = []
    for purpose in ("a", "a", "b"):
        model = nn.Linear(4, 2)
        model.load_state_dict(start.state_dict())
        optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
        train(model, optimiser, criterion, data, epochs=3, batch_size=32, seed=0, purpose=(purpose,))
        states.append(digest(model.state_dict()))
        loss, accuracy, on_targets = evaluate([model], criterion, data)
        assert accuracy > 0.95
        assert loss < evaluate([start], criterion, data)[0]
        assert on_targets == accuracy
    assert states[0] == states[1] != states[2]


def trained(model, samples, batch_size):
    """Train a model of two inputs; return the sizes of the batches that it saw."""
    torch.manual_seed(0)
    inputs, sizes = torch.randn(samples, 2), []
    model.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0])))
    train(
        model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(reduction="none"),
        (inputs, (inputs[:, 0] > 0).long()), epochs=1, batch_size=batch_size, seed=0, purpose=(),
    )  # fmt: skip
    return sizes


def normed():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def test_an_agent_without_data_is_told():
    with pytest.raises(MarketError, match="no training data"):
        trained(nn.Linear(2, 2), samples=0, batch_size=2)


def test_a_last_batch_of_one_sample_is_merged_into_the_one_before_it():
    """BatchNorm cannot train on one sample."""
    assert trained(normed(), samples=9, batch_size=4) == [4, 5]
    assert trained(normed(), samples=10, batch_size=4) == [4, 4, 2]
    assert trained(nn.Linear(2, 2), samples=3, batch_size=1) == [1, 1, 1], "batches of one that were asked for"


@pytest.mark.parametrize(("samples", "batch_size"), [(1, 4), (3, 1)])
def test_one_sample_alone_cannot_train_batchnorm(samples, batch_size):
    with pytest.raises(MarketError, match="one sample cannot train BatchNorm"):
        trained(normed(), samples, batch_size)


def test_one_sample_alone_trains_what_needs_no_more():
    """BatchNorm of convolutions averages over pixels too."""
    assert trained(nn.Linear(2, 2), samples=1, batch_size=4) == [1]
    pixels = nn.Sequential(nn.Unflatten(1, (1, 1, 2)), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(2, 2))
    assert trained(pixels, samples=1, batch_size=4) == [1]


def test_an_error_that_is_not_of_batchnorm_s_passes():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, inputs):
            raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        trained(Picky(), samples=1, batch_size=4)


@pytest.mark.parametrize(("samples", "size"), [(0, 3), (1, 3), (3, 3), (4, 3), (7, 3), (8, 3), (5, 1), (5, 9)])
def test_every_sample_is_in_one_batch_in_the_given_order(samples, size):
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(0))
    batches = batches_of(order, size)
    assert torch.equal(torch.cat(batches), order)
    assert all(len(batch) == size for batch in batches[:-1])
    assert len(batches[-1]) <= size + 1
