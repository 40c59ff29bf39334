"""The small real MNIST sample that the package ships, so that a first run needs no download.

It is one JSON file, because a Flower app bundle keeps ``.json`` and drops ``.npz``. The script
``scripts/make_mnist_sample.py`` makes it and documents the images' source and licence.
"""

import base64
import hashlib
import json
import lzma
from importlib import resources

import numpy as np
import torch

from fl_market.data import Batch
from fl_market.errors import MarketError

FILE = "mnist_sample.json"
PARTS = ("train", "broker", "test")


def load_sample() -> dict[str, Batch]:
    """Return the parts ``train``, ``broker`` and ``test``: (samples, 28, 28) bytes and labels.

    Raises
    ------
    MarketError
        If the file is missing or corrupt.
    """
    try:
        document = json.loads(resources.files("fl_market.tasks").joinpath(FILE).read_text(encoding="utf-8"))
        packed = base64.b64decode(document["images"])
        images = np.frombuffer(lzma.decompress(packed), dtype=np.uint8).reshape(-1, 28, 28)
        if hashlib.sha256(images.tobytes()).hexdigest() != document["sha256"]:
            raise ValueError("its checksum does not match")
        counts = [len(document["labels"][part]) for part in PARTS]
        blocks = np.split(images, np.cumsum(counts)[:-1])
        return {
            part: (torch.from_numpy(block.copy()), torch.tensor(document["labels"][part]))
            for part, block in zip(PARTS, blocks, strict=True)
        }
    except (OSError, ValueError, KeyError, lzma.LZMAError) as error:
        raise MarketError(
            f"the shipped MNIST sample ({FILE}) is missing or corrupt: {error}; reinstall fl-market"
        ) from error
