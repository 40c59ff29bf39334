"""The small real MNIST sample that the package ships, so that a first run needs no download.

Each part is a JSON file, because a Flower app bundle keeps ``.json`` and drops ``.npz``. An agent
does not read the broker's file. The script ``scripts/make_mnist_sample.py`` makes the files and
documents the images' source and licence.
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
from fl_market.tasks.reading import kept_if_repeated

FILE = "mnist_sample_{part}.json"
PARTS = ("train", "broker", "test")


@kept_if_repeated(len(PARTS))
def load_sample(part: str) -> Batch:
    """Return ``"train"``, ``"broker"`` or ``"test"``: (samples, 28, 28) bytes and labels.

    Raises
    ------
    MarketError
        If the file is missing or corrupt.
    """
    file = FILE.format(part=part)
    try:
        document = json.loads(resources.files("fl_market.tasks").joinpath(file).read_text(encoding="utf-8"))
        content = lzma.decompress(base64.b64decode(document["images"]))
        if hashlib.sha256(content).hexdigest() != document["sha256"]:
            raise ValueError("its checksum does not match")
        images = np.frombuffer(content, dtype=np.uint8).reshape(len(document["labels"]), 28, 28)
        return torch.from_numpy(images.copy()), torch.tensor(document["labels"])
    except (OSError, ValueError, KeyError, lzma.LZMAError) as error:
        raise MarketError(
            f"the shipped MNIST sample ({file}) is missing or corrupt: {error}; reinstall fl-market"
        ) from error
