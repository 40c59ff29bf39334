"""One clear sentence if a data set cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_market.errors import MarketError


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
