import torch
from torch import nn

from fl_market.gains import ModelLoss, batch_size_for
from fl_market.gains.losses import ACTIVATIONS


def test_batches_make_no_difference_and_the_model_is_left_alone(mlp):
    data = torch.randn(23, 12), torch.randint(0, 3, (23,))
    other = {name: torch.randn_like(tensor) for name, tensor in mlp.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in mlp.state_dict().items()}
    criterion = nn.CrossEntropyLoss(reduction="none")
    whole, parts = ModelLoss(mlp, criterion)(other, data), ModelLoss(mlp, criterion, batch_size=5)(other, data)
    torch.testing.assert_close(whole, parts)
    assert all(torch.equal(before[name], tensor) for name, tensor in mlp.state_dict().items())
    mlp.load_state_dict(other)
    torch.testing.assert_close(whole, criterion(mlp(data[0]), data[1]))


def test_batches_are_as_large_as_the_largest_activation_allows(mlp):
    images = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.Flatten(), nn.Linear(16 * 28 * 28, 10))
    assert batch_size_for(images, torch.zeros(1, 1, 28, 28)) == ACTIVATIONS // (16 * 28 * 28)
    assert batch_size_for(mlp, torch.zeros(50, 12)) == ACTIVATIONS // 12
    huge = nn.Sequential(nn.Linear(1, ACTIVATIONS + 1))
    assert batch_size_for(huge, torch.zeros(3, 1)) == 1
