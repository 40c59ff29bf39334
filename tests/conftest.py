"""Fixtures that several rooms share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def pytest_collection_modifyitems(items):
    """Start the longest tests first: else one process ends long after the others."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_mnist(tmp_path_factory):
    """The published MNIST files, in torchvision's layout."""
    source = SHARED_DATA / "mnist"
    if not source.is_dir():
        pytest.skip(f"the published MNIST files are not at {source}")
    raw = tmp_path_factory.mktemp("mnist") / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in source.glob("*.gz"):
        (raw / path.name).symlink_to(path)
    return raw.parent.parent


@pytest.fixture(scope="session")
def real_cifar10(tmp_path_factory):
    """The published CIFAR-10 files, in torchvision's layout."""
    prepare = SHARED_DATA / "prepare.py"
    if not prepare.is_file():
        pytest.skip(f"the published CIFAR-10 files are not at {SHARED_DATA}")
    folder = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, prepare, "--to", folder, "cifar10"], check=True, capture_output=True)
    return folder


@pytest.fixture
def mlp():
    """A small perceptron with random weights, always the same."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))
