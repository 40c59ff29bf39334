"""Local differential privacy: Flower's modifier clips an agent's update and adds Gaussian noise."""

import math
from dataclasses import astuple, dataclass

from fl_market.catalogue import LOCAL_PRIVACY
from fl_market.errors import OptionError
from fl_market.plugins import find


@dataclass(frozen=True)
class LocalPrivacy:
    """The Gaussian mechanism on an agent's update, as ``flwr.clientapp.mod.LocalDpMod`` applies it.

    Attributes
    ----------
    clipping_norm
        Largest Euclidean norm of the update of a round.
    sensitivity
        Sensitivity of the parameters to one sample.
    epsilon, delta
        Privacy budget of one round. The standard deviation of the noise is
        sensitivity · √(2 ln(1.25 / δ)) / ε.

    Raises
    ------
    OptionError
        If a number is not above 0, or delta is not below 1.
    """

    clipping_norm: float
    sensitivity: float
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (all(0 < number < math.inf for number in astuple(self)) and self.delta < 1):
            raise OptionError("all numbers must be above 0, and delta below 1")


MECHANISMS = {"gaussian": LocalPrivacy}
"""The mechanisms by name."""


def parse_local_privacy(text: str) -> LocalPrivacy | None:
    """Return the mechanism in a text such as ``"gaussian(1.0, 0.0001, 8, 1e-5)"``.

    An empty text gives None.

    Raises
    ------
    OptionError
        If the text names no mechanism, or its numbers do not fit.
    """
    if not text:
        return None
    mechanism: LocalPrivacy = find(LOCAL_PRIVACY, text)
    return mechanism
