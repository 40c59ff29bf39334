"""Reading of data sets: one clear sentence if that fails, and fewer repetitions in a simulation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from fl_market.errors import MarketError

P = ParamSpec("P")
R = TypeVar("R")


def kept_if_repeated(count: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that keeps a function's last results from its second equal call on.

    An agent's process reads a data set once, and must not keep more of it than its own part. A
    simulation plays all parties in one process, and reads a data set for each.

    Parameters
    ----------
    count
        Number of results to keep.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        called: set[int] = set()
        kept = lru_cache(count)(function)

        @wraps(function)
        def call(*arguments: P.args, **named: P.kwargs) -> R:
            key = hash((arguments, tuple(named.items())))
            if key in called:
                return kept(*arguments, **named)  # type: ignore[arg-type]
            called.add(key)
            return function(*arguments, **named)

        return call

    return decorate


@contextmanager
def reading(name: str, data_dir: Path, dataset: str, place: str) -> Iterator[None]:
    """Turn an exception into a MarketError that names the data, its folder and the layout.

    Parameters
    ----------
    name
        Of the data, as users know it.
    data_dir
        Folder that the user named.
    dataset
        Name in ``torchvision.datasets``, whose layout is accepted.
    place
        Folder of the files in that layout, relative to ``data_dir``.
    """
    try:
        yield
    except Exception as error:
        raise MarketError(
            f"{name} cannot be read from {data_dir}: {first_line(error)}; the files must be in the layout of "
            f"torchvision.datasets.{dataset} ({data_dir / place}); --download fetches them"
        ) from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before the message of any exception inside the block.

    Raises
    ------
    ValueError
        In place of the exception.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path.name}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its type."""
    return str(error).splitlines()[0].rstrip(".:") if str(error) else type(error).__name__
