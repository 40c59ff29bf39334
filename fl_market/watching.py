"""How far a long part of a round is, for whoever watches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Watch = Callable[[int, int], None]
"""(buyers whose trials are done, all buyers) of the round."""

_watches: list[Watch] = []


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Call a function with each announcement inside the block, from whatever thread it comes."""
    _watches.append(watch)
    try:
        yield
    finally:
        _watches.remove(watch)


def announce(done: int, total: int) -> None:
    """Say that the trials of some buyers are done.

    Examples
    --------
    >>> with watched(lambda done, total: print(f"{done} of {total}")):
    ...     announce(3, 10)
    3 of 10
    """
    for watch in _watches:
        watch(done, total)
