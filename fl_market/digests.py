"""Digests of bytes in arrays, without PyTorch: see :func:`fl_market.parameters.digest`."""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def digest_of_bytes(arrays: Mapping[str, NDArray[np.uint8]]) -> str:
    """Return what ``digest`` returns of the same bytes in tensors of ``torch.uint8``.

    A SuperNode starts a process for each message, and the import of PyTorch takes most of the time
    of one that only acknowledges a sealed purchase.

    Examples
    --------
    >>> digest_of_bytes({"w": np.array([1, 2], dtype=np.uint8)})[:16]
    'ddb1367deff702d0'
    """
    sha = hashlib.sha256()
    for name in sorted(arrays):
        sha.update(f"{name}:torch.uint8:{arrays[name].shape};".encode())
        sha.update(arrays[name].tobytes())
    return sha.hexdigest()
