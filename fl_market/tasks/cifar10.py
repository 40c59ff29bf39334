"""CIFAR-10 as torchvision reads it, and the residual networks of the published experiments."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from fl_market.errors import MarketError
from fl_market.gains.losses import Batch
from fl_market.tasks.partition import share_out, take_out
from fl_market.tasks.reading import reading
from fl_market.tasks.resnet import ResNet
from fl_market.tasks.task import Task, TaskOptions
from fl_market.tasks.torchvision_import import import_torchvision

BROKER_SAMPLES = 5000
BATCH_SIZE = 128
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def cifar10_resnet20(options: TaskOptions) -> Task:
    """Return the task ``cifar10-resnet20``: the paper's imbalance by halves of the classes.

    ``options.norm`` picks the norm layers and ``options.widen`` the width: 6 with ``layer`` is the published network.
    """
    return cifar10_task("cifar10-resnet20", partial(ResNet, widen=options.widen, norm=options.norm), options)


def cifar10_task(name: str, build_model: Callable[[], nn.Module], options: TaskOptions) -> Task:
    """Return the task of one model on CIFAR-10; the broker's 5 000 samples come out of the training set.

    Raises
    ------
    MarketError
        If no data folder is named, or the data in it cannot be read.
    """
    if not options.data_dir:
        raise MarketError(f"{name} needs --data-dir, a folder in the layout of torchvision.datasets.CIFAR10")
    train, test = read_cifar10(Path(options.data_dir), options.download)
    broker, train = take_out(train, options.broker_samples or BROKER_SAMPLES, options.seed, "broker-data")
    return Task(
        name=name,
        build_model=build_model,
        criterion=nn.CrossEntropyLoss(reduction="none"),
        agents=share_out(train, options),
        broker=broker,
        test=test,
        batch_size=BATCH_SIZE,
    )


def read_cifar10(data_dir: Path, download: bool = False) -> tuple[Batch, Batch]:
    """Return the published training and test parts: (samples, 3, 32, 32) floats, mean 0 and deviation 1; and labels.

    Raises
    ------
    MarketError
        If the files are missing or broken.
    """
    cifar10 = import_torchvision().datasets.CIFAR10
    with reading("CIFAR-10", data_dir, "CIFAR10", "cifar-10-batches-py"):
        parts = [cifar10(str(data_dir), train=train, download=download) for train in (True, False)]
    mean, deviation = (torch.tensor(numbers).reshape(1, 3, 1, 1) for numbers in (MEAN, DEVIATION))
    train, test = (
        ((torch.from_numpy(part.data).permute(0, 3, 1, 2).float() / 255 - mean) / deviation, torch.tensor(part.targets))
        for part in parts
    )
    return train, test
