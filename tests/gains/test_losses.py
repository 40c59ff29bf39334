import torch
from torch import nn

from fl_market.gains import ModelLoss


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
