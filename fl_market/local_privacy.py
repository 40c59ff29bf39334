"""How an agent blurs what it gives away of its model; Flower's own modifier does it."""

import math
import re
from dataclasses import astuple, dataclass

from fl_market.errors import MarketError


@dataclass(frozen=True)
class LocalPrivacy:
    """The Gaussian mechanism on an agent's update, as ``flwr.clientapp.mod.LocalDpMod`` applies it.

    Attributes
    ----------
    clipping_norm
        Euclidean norm that the update of a round is clipped to.
    sensitivity
        Of the parameters to one sample.
    epsilon, delta
        The privacy budget of one round. The noise has the deviation sensitivity · √(2 ln(1.25 / δ)) / ε.
    """

    clipping_norm: float
    sensitivity: float
    epsilon: float
    delta: float


def parse_local_privacy(text: str) -> LocalPrivacy | None:
    """Return what a text such as ``"gaussian(1.0, 0.0001, 8, 1e-5)"`` names; None for an empty one.

    Raises
    ------
    MarketError
        If the text is neither.
    """
    if not text:
        return None
    found = re.fullmatch(r"\s*gaussian\s*\(([^()]*)\)\s*", text)
    try:
        if found is not None:
            privacy = LocalPrivacy(*(float(number) for number in found[1].split(",")))
            if all(0 < number < math.inf for number in astuple(privacy)) and privacy.delta < 1:
                return privacy
    except (TypeError, ValueError):
        pass
    raise MarketError(
        f"unknown local privacy {text!r}; accepted is gaussian(clipping_norm, sensitivity, epsilon, delta), all above 0"
    )
