"""Seeds and generators for every random choice of a run.

Randomness is passed in, never global. Each random choice has its own stream, named by its purpose:
no arm, process layout or order of replies shifts the numbers that another choice draws.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one named purpose, independent of those for all other purposes.

    Examples
    --------
    >>> derive_seed(0, "train", "A", 1) == derive_seed(0, "train", "A", 1)
    True
    >>> derive_seed(0, "train", "A", 1) == derive_seed(0, "train", "A", 2)
    False
    """
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one named purpose."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a NumPy generator for one named purpose."""
    return np.random.default_rng(derive_seed(seed, *purpose))


@contextmanager
def reproducible(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's global generator inside the block, on one thread, and restore both afterwards.

    Modules draw their initial weights from the global generator, and floating-point sums depend on
    the number of threads. Without both, a result would depend on the process that computes it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, *purpose))
            yield
    finally:
        torch.set_num_threads(threads)
