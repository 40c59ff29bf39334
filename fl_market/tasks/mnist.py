"""MNIST: the published files, or the small sample that the package ships."""

import gzip
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fl_market.data import Batch
from fl_market.tasks.partition import shared_task
from fl_market.tasks.reading import kept_if_repeated, naming, reading
from fl_market.tasks.sample import load_sample
from fl_market.tasks.task import Task, TaskOptions
from fl_market.tasks.torchvision_import import import_torchvision

BATCH_SIZE = 512
SAMPLE_BATCH_SIZE = 32
"""The sample is a tenth of the full set; smaller batches give it about as many steps."""
MEAN, DEVIATION = 0.1307, 0.3081


def mnist_task(name: str, build: Callable[[int], nn.Module], options: TaskOptions) -> Task:
    """Return the task of one model on MNIST.

    The broker's data is taken out of the training set: 5 000 samples of the full set. The shipped
    sample has a separate part for the broker, which is read for the broker alone.
    """
    if options.data_dir:
        train, test = read_mnist(Path(options.data_dir), options.download)
        return shared_task(name, build, train, test, options, batch_size=BATCH_SIZE, prepare=prepared)
    return shared_task(
        name,
        build,
        load_sample("train"),
        load_sample("test"),
        options,
        batch_size=SAMPLE_BATCH_SIZE,
        broker=partial(load_sample, "broker"),
        prepare=prepared,
    )


@kept_if_repeated(1)
def read_mnist(data_dir: Path, download: bool = False) -> tuple[Batch, Batch]:
    """Return MNIST's published training and test parts: (samples, 28, 28) bytes, and labels.

    The files may be packed (``.gz``, as published) or unpacked, as torchvision leaves them.

    Raises
    ------
    MarketError
        If a file is missing or corrupt.
    """
    with reading("MNIST", data_dir, "MNIST", "MNIST/raw"):
        if download:
            import_torchvision().datasets.MNIST(str(data_dir), download=True)
        raw = data_dir / "MNIST" / "raw"
        return _read_part(raw, "train", 60_000), _read_part(raw, "t10k", 10_000)


def _read_part(raw: Path, part: str, count: int) -> Batch:
    images = _read_idx(raw / f"{part}-images-idx3-ubyte", (count, 28, 28))
    labels = _read_idx(raw / f"{part}-labels-idx1-ubyte", (count,))
    return images, labels.long()


def _read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Return the unsigned bytes in an IDX file.

    It holds a magic number, the shape as big-endian integers, and the values.
    """
    packed = path.with_name(f"{path.name}.gz")
    is_packed = packed.exists() and not path.exists()
    with naming(packed if is_packed else path):
        content = gzip.decompress(packed.read_bytes()) if is_packed else path.read_bytes()
        header = b"".join(number.to_bytes(4, "big") for number in (0x800 + len(shape), *shape))
        if not content.startswith(header) or len(content) != len(header) + math.prod(shape):
            raise ValueError(f"it does not hold unsigned bytes of shape {shape}")
        return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=len(header)).reshape(shape)


def prepared(images: Tensor) -> Tensor:
    """Return normalised floats (samples, 1, 28, 28) from MNIST's unsigned bytes.

    The axis of the one channel may be missing.
    """
    images = images.unsqueeze(1) if images.dim() == 3 else images
    return (images.float() / 255 - MEAN) / DEVIATION
