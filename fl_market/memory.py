"""Memory that was freed is given back to the system."""

import ctypes
from functools import cache


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        return library if hasattr(library, "malloc_trim") else None
    except (OSError, TypeError):  # not every platform has one
        return None


def give_back() -> None:
    """Give freed memory back to the system, where the C library is glibc.

    It keeps freed blocks of up to 32 MiB, and new ones do not always fit into them: after a few
    large models, a process would hold several models' size of nothing.
    """
    library = _library()
    if library is not None:
        library.malloc_trim(0)
