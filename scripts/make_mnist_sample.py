"""Make the MNIST sample that the package ships, from the published files.

    python scripts/make_mnist_sample.py DIR

DIR has the layout of ``torchvision.datasets.MNIST``. The images are a stratified random sample and
are copied unchanged. The training and broker parts are from the published training set, and the
test part is from the published test set. MNIST is by Yann LeCun, Corinna Cortes and Christopher J.
C. Burges, licensed CC BY-SA 3.0; this sample has the same licence.
"""

import argparse
import base64
import hashlib
import json
import lzma
from pathlib import Path

import torch

from fl_market.tasks.mnist import read_mnist
from fl_market.tasks.partition import stratified
from fl_market.tasks.sample import FILE, PARTS

COUNTS = {"train": 6000, "broker": 1500, "test": 2000}
TARGET = Path(__file__).resolve().parent.parent / "fl_market" / "tasks"
SOURCE = "MNIST by Yann LeCun, Corinna Cortes and Christopher J. C. Burges, https://yann.lecun.com/exdb/mnist"


def main() -> None:
    """Write the parts of the sample into the package."""
    parser = argparse.ArgumentParser(description="Make the MNIST sample that the package ships.")
    parser.add_argument("data_dir", type=Path)
    train, test = read_mnist(parser.parse_args().data_dir)
    chosen = stratified(train[1], COUNTS["train"] + COUNTS["broker"], 0, "sample")
    for_broker = stratified(train[1][chosen], COUNTS["broker"], 0, "sample-broker")
    mask = torch.zeros(len(chosen), dtype=torch.bool)
    mask[for_broker] = True
    indices = {
        "train": chosen[~mask],
        "broker": chosen[mask],
        "test": stratified(test[1], COUNTS["test"], 0, "sample-test"),
    }
    source = {"train": train, "broker": train, "test": test}
    for part in PARTS:
        images, labels = (tensor[indices[part]] for tensor in source[part])
        content = images.numpy().tobytes()
        document = {
            "source": SOURCE,
            "licence": "CC BY-SA 3.0",
            "made_by": "scripts/make_mnist_sample.py",
            "sha256": hashlib.sha256(content).hexdigest(),
            "indices": indices[part].tolist(),
            "labels": labels.tolist(),
            "images": base64.b64encode(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)).decode(),
        }
        path = TARGET / FILE.format(part=part)
        path.write_text(json.dumps(document) + "\n", encoding="utf-8")
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
