"""Split the broker's validation data into a part that chooses and a part that certifies."""

import torch

from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.seeds import torch_generator


def split_in_halves(data: Batch, seed: int) -> tuple[Batch, Batch]:
    """Return a random fit split, and the certify split that holds the rest.

    Parameters
    ----------
    data
        The broker's validation data.
    seed
        Decides the split.

    Raises
    ------
    MarketError
        If there are fewer than four samples.
    """
    count = len(data[0])
    if count < 4:
        raise MarketError(f"the broker needs at least 4 validation samples; got {count}")
    order = torch.randperm(count, generator=torch_generator(seed, "fit-certify"))
    fit, certify = order[: count // 2], order[count // 2 :]
    return tuple(part[fit] for part in data), tuple(part[certify] for part in data)
