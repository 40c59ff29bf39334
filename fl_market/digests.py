"""Digests of named arrays, without PyTorch: see :func:`fl_market.parameters.digest`."""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray


def digest_of_parts(parts: Iterable[tuple[str, str, tuple[int, ...], bytes]]) -> str:
    """Return the SHA-256 of arrays.

    Parameters
    ----------
    parts
        Name, PyTorch's name of the dtype, shape, and bytes of each, sorted by name.
    """
    sha = hashlib.sha256()
    for name, dtype, shape, content in parts:
        sha.update(f"{name}:{dtype}:{shape};".encode())
        sha.update(content)
    return sha.hexdigest()


def digest_of_bytes(arrays: Mapping[str, NDArray[np.uint8]]) -> str:
    """Return what ``digest`` returns of the same bytes in tensors of ``torch.uint8``.

    A SuperNode starts a process for each message, and the import of PyTorch takes most of the time
    of one that only acknowledges a sealed purchase.

    Examples
    --------
    >>> digest_of_bytes({"w": np.array([1, 2], dtype=np.uint8)})[:16]
    'ddb1367deff702d0'
    """
    named = sorted(arrays.items())
    return digest_of_parts((name, "torch.uint8", array.shape, array.tobytes()) for name, array in named)
