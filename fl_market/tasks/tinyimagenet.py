"""TinyImageNet: 200 classes of small photographs, and the published residual network."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.tasks.images import crop_and_flip, normalised
from fl_market.tasks.partition import shared_task
from fl_market.tasks.reading import kept_if_repeated, naming
from fl_market.tasks.resnet import ResNet
from fl_market.tasks.task import Task, TaskOptions
from fl_market.tasks.torchvision_import import import_torchvision

FOLDER = "tiny-imagenet-200"
BATCH_SIZE = 256
MEAN, DEVIATION = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)


def tinyimagenet_resnet20(options: TaskOptions) -> Task:
    """Return the task ``tinyimagenet-resnet20``.

    ``options.image_size`` is 32 as published, or 64, the size of the images.

    The published validation images are the test set: the published test images have no labels.

    Raises
    ------
    MarketError
        If ``options.data_dir`` is empty, or the data in it cannot be read.
    """
    if not options.data_dir:
        raise MarketError(f"tinyimagenet-resnet20 needs --data-dir, a folder with {FOLDER} as published")
    size = options.image_size or 32
    train, test = read_tinyimagenet(Path(options.data_dir), size)

    def build(classes: int) -> ResNet:
        return ResNet(widen=options.widen, norm=options.norm, classes=classes)

    return shared_task(
        "tinyimagenet-resnet20",
        build,
        train,
        test,
        options,
        batch_size=BATCH_SIZE,
        augment=crop_and_flip(size) if options.augment else None,
        prepare=prepared,
    )


def prepared(images: Tensor) -> Tensor:
    """Return floats of mean 0 and deviation 1 from unsigned bytes (samples, 3, size, size)."""
    return normalised(images, MEAN, DEVIATION)


@kept_if_repeated(1)
def read_tinyimagenet(data_dir: Path, size: int = 32) -> tuple[tuple["ImageFiles", Tensor], Batch]:
    """Return training and validation images: (samples, 3, size, size) unsigned bytes, and labels.

    Training images are read when they are asked for by their numbers: a party reads its own alone.

    Parameters
    ----------
    data_dir
        Folder that holds ``tiny-imagenet-200``.
    size
        Height and width that the images are resized to.

    Raises
    ------
    MarketError
        If a file is missing or corrupt.
    """
    root = data_dir / FOLDER
    with _reading(data_dir):
        names = (root / "wnids.txt").read_text(encoding="utf-8").split()
        labels = {name: label for label, name in enumerate(sorted(names))}
        train = [
            (path, labels[name]) for name in labels for path in sorted((root / "train" / name / "images").iterdir())
        ]
        annotations = (root / "val" / "val_annotations.txt").read_text(encoding="utf-8").splitlines()
        rows = [line.split("\t") for line in annotations]
        test = [(root / "val" / "images" / row[0], labels[row[1]]) for row in rows]
    images, targets = _files(train, size, data_dir)
    others, common = _files(test, size, data_dir)
    return (images, targets), (others[torch.arange(len(common))], common)


@dataclass(frozen=True)
class ImageFiles:
    """Images in files, which are read and resized when they are asked for.

    Attributes
    ----------
    paths
        The files.
    size
        Height and width that the images are resized to.
    data_dir
        Folder that the user named.
    """

    paths: Sequence[Path]
    size: int
    data_dir: Path

    def __getitem__(self, samples: Tensor, /) -> Tensor:
        """Return images by their numbers: unsigned bytes, shape (samples, 3, size, size).

        Raises
        ------
        MarketError
            If a file is missing or corrupt.
        """
        from PIL import Image

        resize = import_torchvision().transforms.Resize(self.size)

        def read(path: Path) -> Tensor:
            with naming(path), Image.open(path) as image:
                pixels = np.asarray(resize(image.convert("RGB")))
            return torch.from_numpy(pixels.copy()).permute(2, 0, 1)

        if not len(samples):
            return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        wanted = [self.paths[number] for number in samples.tolist()]
        with _reading(self.data_dir), ThreadPoolExecutor() as threads:  # Pillow releases Python's lock
            return torch.stack(list(threads.map(read, wanted)))


def _files(files: Sequence[tuple[Path, int]], size: int, data_dir: Path) -> tuple[ImageFiles, Tensor]:
    return ImageFiles([path for path, _ in files], size, data_dir), torch.tensor([label for _, label in files])


@contextmanager
def _reading(data_dir: Path) -> Iterator[None]:
    root = data_dir / FOLDER
    try:
        yield
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise MarketError(
            f"TinyImageNet cannot be read from {data_dir}: {error}; the files must be in the published layout "
            f"({root}/train, {root}/val with val_annotations.txt, {root}/wnids.txt)"
        ) from error
