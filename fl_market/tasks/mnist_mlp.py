"""MNIST and the five-layer MLP of the published experiments (784-32-32-32-16-10)."""

import gzip
import shutil
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from fl_market.errors import MarketError
from fl_market.gains.losses import Batch
from fl_market.tasks.partition import by_halves_of_classes, stratified
from fl_market.tasks.sample import load_sample
from fl_market.tasks.task import DataOptions, Task
from fl_market.tasks.torchvision_import import import_torchvision

WIDTHS = (784, 32, 32, 32, 16, 10)
BROKER_SAMPLES = 5000
BATCH_SIZE = 512
SAMPLE_BATCH_SIZE = 32
"""The sample is a tenth of the full set: smaller batches make up for fewer of them."""
MEAN, DEVIATION = 0.1307, 0.3081


def mnist_mlp(options: DataOptions) -> Task:
    """Return the task ``mnist-mlp``: the paper's imbalance by halves of the classes.

    The broker's data comes out of the training set: 5 000 samples of the full set; the shipped sample has a part of its
    own for the broker.
    """
    if options.data_dir:
        train, test = read_mnist(Path(options.data_dir), options.download)
        images, targets = train
        count = options.broker_samples or BROKER_SAMPLES
        taken = stratified(targets, count, options.seed, "broker-data")
        broker: Batch = images[taken], targets[taken]
        left = torch.ones(len(targets), dtype=torch.bool)
        left[taken] = False
        images, targets = images[left], targets[left]
    else:
        sample = load_sample()
        (images, targets), broker, test = sample["train"], sample["broker"], sample["test"]
        if options.broker_samples:
            taken = stratified(broker[1], options.broker_samples, options.seed, "broker-data")
            broker = broker[0][taken], broker[1][taken]
    parts = by_halves_of_classes(targets, options.agents, options.scarce_share, options.seed)
    inputs = _normalise(images)
    return Task(
        name="mnist-mlp",
        build_model=build_mlp,
        criterion=nn.CrossEntropyLoss(reduction="none"),
        agents=tuple((inputs[part], targets[part]) for part in parts),
        broker=(_normalise(broker[0]), broker[1]),
        test=(_normalise(test[0]), test[1]),
        batch_size=BATCH_SIZE if options.data_dir else SAMPLE_BATCH_SIZE,
    )


def build_mlp() -> nn.Module:
    """Return the untrained network: ReLU between the layers, none behind the last."""
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(WIDTHS):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def read_mnist(data_dir: Path, download: bool = False) -> tuple[Batch, Batch]:
    """Return MNIST's published training and test parts as unsigned bytes and labels.

    Raises
    ------
    MarketError
        If the files are missing or broken.
    """
    mnist = import_torchvision().datasets.MNIST
    try:
        with TemporaryDirectory() as unpacked:
            root = data_dir if download else _unpacked(data_dir, Path(unpacked))
            parts = [mnist(str(root), train=train, download=download) for train in (True, False)]
            for part, count in zip(parts, (60_000, 10_000), strict=True):
                if part.data.shape != (count, 28, 28) or part.targets.shape != (count,):
                    raise ValueError(f"{count} images of 28 x 28 pixels were expected, not {tuple(part.data.shape)}")
    except Exception as error:
        reason = str(error).splitlines()[0].rstrip(".:") if str(error) else type(error).__name__
        raise MarketError(
            f"MNIST cannot be read from {data_dir}: {reason}; accepted is the layout of torchvision.datasets.MNIST "
            f"({data_dir / 'MNIST' / 'raw'}), and --download fetches it"
        ) from error
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


def _normalise(images: Tensor) -> Tensor:
    """Return (samples, 1, 28, 28) floats with MNIST's mean 0 and deviation 1 from unsigned bytes."""
    return ((images.float() / 255 - MEAN) / DEVIATION).unsqueeze(1)
