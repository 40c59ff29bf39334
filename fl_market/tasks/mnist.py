"""MNIST: the published files, or the small sample that the package ships."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from fl_market.data import Batch
from fl_market.tasks.partition import shared_task
from fl_market.tasks.reading import reading
from fl_market.tasks.sample import load_sample
from fl_market.tasks.task import Task, TaskOptions
from fl_market.tasks.torchvision_import import import_torchvision

BATCH_SIZE = 512
SAMPLE_BATCH_SIZE = 32
"""The sample is a tenth of the full set: smaller batches make up for fewer of them."""
MEAN, DEVIATION = 0.1307, 0.3081


def mnist_task(name: str, build: Callable[[int], nn.Module], options: TaskOptions) -> Task:
    """Return the task of one model on MNIST.

    The broker's data comes out of the training set: 5 000 samples of the full set; the shipped sample has a part of its
    own for the broker.
    """
    if options.data_dir:
        train, test = read_mnist(Path(options.data_dir), options.download)
        return shared_task(name, build, train, test, options, batch_size=BATCH_SIZE, prepare=prepared)
    sample = load_sample()
    return shared_task(
        name,
        build,
        sample["train"],
        sample["test"],
        options,
        batch_size=SAMPLE_BATCH_SIZE,
        broker=sample["broker"],
        prepare=prepared,
    )


def read_mnist(data_dir: Path, download: bool = False) -> tuple[Batch, Batch]:
    """Return MNIST's published training and test parts: (samples, 28, 28) unsigned bytes, and labels.

    Raises
    ------
    MarketError
        If the files are missing or broken.
    """
    mnist = import_torchvision().datasets.MNIST
    with reading("MNIST", data_dir, "MNIST", "MNIST/raw"), TemporaryDirectory() as unpacked:
        root = data_dir if download else _unpacked(data_dir, Path(unpacked))
        parts = [mnist(str(root), train=train, download=download) for train in (True, False)]
        for part, count in zip(parts, (60_000, 10_000), strict=True):
            if part.data.shape != (count, 28, 28) or part.targets.shape != (count,):
                raise ValueError(f"{count} images of 28 x 28 pixels were expected, not {tuple(part.data.shape)}")
    train, test = ((part.data, part.targets) for part in parts)
    return train, test


def _unpacked(data_dir: Path, scratch: Path) -> Path:
    """Return a folder that holds the files unpacked: torchvision unpacks the published .gz only when it downloads.

    The user's folder stays as it is: it may be read-only, and several processes may read it at once.
    """
    raw = data_dir / "MNIST" / "raw"
    packed = sorted(raw.glob("*-ubyte.gz"))
    if not packed or all(path.with_suffix("").exists() for path in packed):
        return data_dir
    target = scratch / "MNIST" / "raw"
    target.mkdir(parents=True)
    for path in packed:
        with gzip.open(path) as source, (target / path.stem).open("wb") as out:
            shutil.copyfileobj(source, out)
    return scratch


def prepared(images: Tensor) -> Tensor:
    """Return (samples, 1, 28, 28) floats with MNIST's mean 0 and deviation 1 from unsigned bytes of that shape.

    The axis of the one channel may be missing.
    """
    images = images.unsqueeze(1) if images.dim() == 3 else images
    return (images.float() / 255 - MEAN) / DEVIATION
