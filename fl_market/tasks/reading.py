"""One clear sentence where a data set cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_market.errors import MarketError


@contextmanager
def reading(name: str, data_dir: Path, dataset: str, place: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into a MarketError that names the data, its folder and the layout.

    Parameters
    ----------
    name
        Of the data, as users know it.
    data_dir
        Folder that the user named.
    dataset
        Name in ``torchvision.datasets``, whose layout is accepted.
    place
        Where in the folder that layout has the files.
    """
    try:
        yield
    except Exception as error:
        reason = str(error).splitlines()[0].rstrip(".:") if str(error) else type(error).__name__
        raise MarketError(
            f"{name} cannot be read from {data_dir}: {reason}; accepted is the layout of torchvision.datasets."
            f"{dataset} ({data_dir / place}), and --download fetches it"
        ) from error
