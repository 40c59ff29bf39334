"""MNIST in the parts of a market, and images that no part of it uses."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fl_market.data import Batch
from fl_market.gains import split_in_halves
from fl_market.tasks.mnist import BATCH_SIZE, SAMPLE_BATCH_SIZE, prepared, read_mnist
from fl_market.tasks.partition import BROKER_SAMPLES, by_halves_of_classes, stratified
from fl_market.tasks.sample import load_sample

TRAINING, UNUSED = 30_000, 20_000
"""Training images of the agents, and unused ones, of the full data set."""


@dataclass(frozen=True)
class Parts:
    """The images of one market.

    Attributes
    ----------
    agents
        Training data of each agent, with half of the classes scarce.
    fit, certify
        The broker's splits.
    unused
        Images of neither the agents nor the broker.
    batch_size
        Of local training.
    """

    agents: tuple[Batch, ...] = field(repr=False)
    fit: Batch = field(repr=False)
    certify: Batch = field(repr=False)
    unused: Batch = field(repr=False)
    batch_size: int


def image_parts(data_dir: str, agents: int, seed: int) -> Parts:
    """Return the parts of the full data set, or of the shipped sample without a folder.

    Parameters
    ----------
    data_dir
        Folder of MNIST in torchvision's layout; empty for the sample, whose unused images are its
        2 000 test images.
    agents
        Number of agents.
    seed
        Decides the parts.

    Raises
    ------
    MarketError
        If the data cannot be read.
    """
    if data_dir:
        left, _ = read_mnist(Path(data_dir))
        broker, left = _taken(left, BROKER_SAMPLES, seed, "broker-data")
        train, left = _taken(left, TRAINING, seed, "training-data")
        unused, _ = _taken(left, UNUSED, seed, "unused-data")
    else:
        train, broker, unused = (load_sample(part) for part in ("train", "broker", "test"))
    fit, certify = split_in_halves(_floats(broker), seed)
    return Parts(
        tuple(_floats(_some(train, samples)) for samples in by_halves_of_classes(train[1], agents, seed)),
        fit,
        certify,
        _floats(unused),
        BATCH_SIZE if data_dir else SAMPLE_BATCH_SIZE,
    )


def _taken(data: Batch, count: int, seed: int, purpose: str) -> tuple[Batch, Batch]:
    """Return some samples with the classes of the whole, and the others."""
    taken = stratified(data[1], count, seed, purpose)
    left = torch.ones(len(data[1]), dtype=torch.bool)
    left[taken] = False
    return _some(data, taken), _some(data, left)


def _some(data: Batch, samples: Tensor) -> Batch:
    return tuple(part[samples] for part in data)


def _floats(data: Batch) -> Batch:
    return prepared(data[0]), data[1]
