"""Split the broker's validation data into a part that chooses and a part that certifies."""

import torch

from fl_market.choices import LEAST_CERTIFY_SAMPLES
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
    return _split(data, seed, count // 2)


def split_for_run(data: Batch, seed: int, fit_samples: int = 0) -> tuple[Batch, Batch]:
    """Return the fit and certify splits of a run, in which the certify split must not be small.

    Parameters
    ----------
    data
        The broker's validation data.
    seed
        Decides the split; see :func:`split_in_halves`.
    fit_samples
        Number of samples in the fit split; 0 for half of them.

    Raises
    ------
    MarketError
        If the certify split would have fewer than 100 samples.
    """
    check_certify_samples(len(data[0]), fit_samples)
    return _split(data, seed, fit_samples) if fit_samples else split_in_halves(data, seed)


def check_certify_samples(samples: int, fit_samples: int = 0) -> None:
    """Raise MarketError if too few of the broker's samples are left to certify.

    Examples
    --------
    >>> check_certify_samples(1000, fit_samples=900)
    >>> check_certify_samples(150)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fl_market.errors.MarketError: the certify split must have at least 100 samples; got 75 of ...
    """
    left = max(0, samples - (fit_samples or samples // 2))
    if left < LEAST_CERTIFY_SAMPLES:
        cure = "raise broker-samples or lower fit-samples" if fit_samples else "raise broker-samples"
        raise MarketError(
            f"the certify split must have at least {LEAST_CERTIFY_SAMPLES} samples; got {left} of the broker's "
            f"{samples}: {cure}"
        )


def _split(data: Batch, seed: int, fit_samples: int) -> tuple[Batch, Batch]:
    order = torch.randperm(len(data[0]), generator=torch_generator(seed, "fit-certify"))
    fit, certify = order[:fit_samples], order[fit_samples:]
    return tuple(part[fit] for part in data), tuple(part[certify] for part in data)
