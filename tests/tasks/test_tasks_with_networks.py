"""The tasks with convolutions and attention."""

import shutil

import pytest
import torch

from fl_market.errors import MarketError
from fl_market.tasks import TaskOptions, cifar10, load_task
from fl_market.tasks.cifar10 import read_cifar10
from fl_market.tasks.tinyimagenet import read_tinyimagenet


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
    floats = cifar10.prepared(train[0])
    assert floats.mean((0, 2, 3)).abs().max() < 0.01
    assert (floats.std((0, 2, 3)) - 1).abs().max() < 0.01
    options = TaskOptions(data_dir=str(real_cifar10), train_samples=2000, broker_samples=500, norm="layer", widen=2)
    task = load_task("cifar10-resnet20", options)
    assert len(task.broker[0]) == 500
    torch.testing.assert_close(task.test[0], cifar10.prepared(test[0]))
    assert torch.bincount(task.agents[0][1], minlength=10).tolist() == [20] * 5 + [200] * 5
    assert task.build_model()(task.test[0][:2]).shape == (2, 10)


def test_cifar10_without_data_is_named(tmp_path):
    with pytest.raises(MarketError, match="needs --data-dir"):
        load_task("cifar10-resnet20", TaskOptions())
    with pytest.raises(MarketError, match=f"CIFAR-10 cannot be read from {tmp_path}: .*CIFAR10"):
        load_task("cifar10-resnet20", TaskOptions(data_dir=str(tmp_path)))


@pytest.mark.parametrize("damage", ["data_batch_3 is missing", "data_batch_3 is corrupt"])
def test_a_bad_file_of_cifar10_is_named(real_cifar10, tmp_path, damage):
    folder = tmp_path / "cifar-10-batches-py"
    shutil.copytree(real_cifar10 / "cifar-10-batches-py", folder)
    (folder / "data_batch_3").unlink()
    if damage.endswith("corrupt"):
        (folder / "data_batch_3").write_bytes(b"no pickle")
    with pytest.raises(MarketError, match=f"CIFAR-10 cannot be read from {tmp_path}: {damage}"):
        read_cifar10(tmp_path)


def test_tinyimagenet_is_read_in_its_published_layout(tmp_path):
    from PIL import Image

    root = tmp_path / "tiny-imagenet-200"
    names = ["n03", "n01", "n02"]
    rows = []
    for place, name in enumerate(names):
        (root / "train" / name / "images").mkdir(parents=True)
        for number in range(5):
            image = Image.new("RGB", (64, 64), (50 * place, 10 * number, 0))
            image.save(root / "train" / name / "images" / f"{name}_{number}.JPEG", quality=95)
        rows.append(f"val_{place}.JPEG\t{name}\t0\t0\t62\t62\n")
    (root / "val" / "images").mkdir(parents=True)
    for place in range(3):
        Image.new("L", (64, 64), 99).save(root / "val" / "images" / f"val_{place}.JPEG")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("\n".join(names) + "\n")
    for size in (0, 64):
        options = TaskOptions(data_dir=str(tmp_path), broker_samples=4, image_size=size, norm="group")
        task = load_task("tinyimagenet-resnet20", options)
        assert task.classes == 3
        assert task.test[1].tolist() == [2, 0, 1], "labels are in the order of the names"
        assert task.test[0].shape == (3, 3, size or 32, size or 32)
        assert len(task.broker[0]) == 4
        assert sum(len(part[0]) for part in task.agents) <= 11
        assert task.build_model()(task.test[0][:2]).shape == (2, 3)
    image = root / "train" / "n01" / "images" / "n01_2.JPEG"
    image.write_bytes(image.read_bytes()[:400])
    with pytest.raises(MarketError, match=r"TinyImageNet cannot be read from .*: n01_2\.JPEG: Truncated"):
        read_tinyimagenet(tmp_path)[0][0][torch.arange(15)]
    (root / "wnids.txt").unlink()
    with pytest.raises(MarketError, match="TinyImageNet cannot be read"):
        load_task("tinyimagenet-resnet20", TaskOptions(data_dir=str(tmp_path), broker_samples=4))
