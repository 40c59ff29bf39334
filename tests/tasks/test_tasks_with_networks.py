"""The tasks with convolutions and attention."""

import pytest
import torch

from fl_market.errors import MarketError
from fl_market.tasks import TaskOptions, load_task
from fl_market.tasks.cifar10 import read_cifar10


@pytest.mark.parametrize("norm", ["batch", "layer", "group"])
def test_mnist_resnet8_has_the_norm_that_was_asked_for(norm):
    model = load_task("mnist-resnet8", TaskOptions(norm=norm)).build_model()
    kind = torch.nn.BatchNorm2d if norm == "batch" else torch.nn.GroupNorm
    norms = [module for module in model.modules() if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.GroupNorm))]
    assert len(norms) == 9
    assert all(type(module) is kind for module in norms)


def test_the_vision_transformer_learns_digits():
    task = load_task("digits-vit", TaskOptions(train_samples=300))
    model = task.initial_model(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    inputs, targets = (torch.cat(parts) for parts in zip(*task.agents, strict=True))
    for _ in range(30):
        optimiser.zero_grad()
        task.criterion(model(inputs), targets).mean().backward()
        optimiser.step()
    model.eval()
    assert float((model(task.test[0]).argmax(1) == task.test[1]).float().mean()) > 0.4


def test_a_part_of_the_training_set_keeps_the_imbalance():
    whole, part = (load_task("mnist-mlp", TaskOptions(train_samples=count)) for count in (0, 1000))
    shares = [torch.bincount(task.agents[0][1], minlength=10) / len(task.agents[0][1]) for task in (whole, part)]
    assert len(part.agents[0][0]) < 600
    assert (shares[0] - shares[1]).abs().max() < 0.02


def test_cifar10_is_read_and_shared_out(real_cifar10):
    train, test = read_cifar10(real_cifar10)
    assert train[0].shape == (50_000, 3, 32, 32)
    assert test[0].shape == (10_000, 3, 32, 32)
    assert train[0].mean((0, 2, 3)).abs().max() < 0.01
    assert (train[0].std((0, 2, 3)) - 1).abs().max() < 0.01
    options = TaskOptions(data_dir=str(real_cifar10), train_samples=2000, broker_samples=500, norm="layer", widen=2)
    task = load_task("cifar10-resnet20", options)
    assert len(task.broker[0]) == 500
    assert torch.bincount(task.agents[0][1], minlength=10).tolist() == [20] * 5 + [200] * 5
    assert task.build_model()(task.test[0][:2]).shape == (2, 10)


def test_cifar10_without_data_is_named(tmp_path):
    with pytest.raises(MarketError, match="needs --data-dir"):
        load_task("cifar10-resnet20", TaskOptions())
    with pytest.raises(MarketError, match=f"CIFAR-10 cannot be read from {tmp_path}: .*CIFAR10"):
        load_task("cifar10-resnet20", TaskOptions(data_dir=str(tmp_path)))
