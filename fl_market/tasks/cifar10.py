"""CIFAR-10 in torchvision's layout, and the residual networks of the published experiments."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.tasks.images import crop_and_flip, normalised
from fl_market.tasks.partition import shared_task
from fl_market.tasks.reading import kept_if_repeated, reading
from fl_market.tasks.resnet import ResNet
from fl_market.tasks.task import Task, TaskOptions
from fl_market.tasks.torchvision_import import import_torchvision

BATCH_SIZE = 128
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def cifar10_resnet20(options: TaskOptions) -> Task:
    """Return the task ``cifar10-resnet20``.

    ``options.norm`` sets the norm layers and ``options.widen`` the width; 6 with ``layer`` is the
    published network.

    Raises
    ------
    MarketError
        If ``options.data_dir`` is empty, or the data in it cannot be read.
    """
    if not options.data_dir:
        raise MarketError("cifar10-resnet20 needs --data-dir, a folder in the layout of torchvision.datasets.CIFAR10")
    train, test = read_cifar10(Path(options.data_dir), options.download)

    def build(classes: int) -> ResNet:
        return ResNet(widen=options.widen, norm=options.norm, classes=classes)

    return shared_task(
        "cifar10-resnet20",
        build,
        train,
        test,
        options,
        batch_size=BATCH_SIZE,
        augment=crop_and_flip(32) if options.augment else None,
        prepare=prepared,
    )


def prepared(images: Tensor) -> Tensor:
    """Return floats of mean 0 and deviation 1 from unsigned bytes (samples, 3, 32, 32)."""
    return normalised(images, MEAN, DEVIATION)


@kept_if_repeated(1)
def read_cifar10(data_dir: Path, download: bool = False) -> tuple[Batch, Batch]:
    """Return the published training and test parts: (samples, 3, 32, 32) bytes, and labels.

    Raises
    ------
    MarketError
        If a file is missing or corrupt.
    """
    cifar10 = import_torchvision().datasets.CIFAR10
    with reading("CIFAR-10", data_dir, "CIFAR10", "cifar-10-batches-py"):
        try:
            parts = [cifar10(str(data_dir), train=train, download=download) for train in (True, False)]
        except RuntimeError as error:  # torchvision does not name the file
            raise ValueError(_first_fault(data_dir / cifar10.base_folder, cifar10) or error) from error
    train, test = ((torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets)) for part in parts)
    return train, test


def _first_fault(folder: Path, cifar10: Any) -> str:
    """Return which of the published files is missing or corrupt; an empty text for none."""
    published = {**dict(cifar10.train_list + cifar10.test_list), cifar10.meta["filename"]: cifar10.meta["md5"]}
    for name, md5 in published.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest() != md5:
            return f"{name} is corrupt: its MD5 is not that of the published file"
    return ""
