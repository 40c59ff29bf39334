r"""A seller's bounds of the buyer's gain-from-trade (paper, section 4, Theorem 4.1).

Agent A sells to agent B. A knows its own gain :math:`\Delta_a`, the weight α with which it buys
from B, and the weight β with which B buys from A; all gains are error ratios :math:`\lVert
e\rVert^2 / \lVert\bar e\rVert^2` (Eq. 3). A does not know the cosine between the two errors. With
:math:`r = \sqrt{\Delta_a}`, B's gain is a Möbius function of this cosine. It is monotone, so its
values at -1 and 1 are sharp bounds.
"""

import math

from fl_market.errors import MarketError

KINDS = ("paper", "sharp")


def gain_bounds(gain: float, alpha: float, beta: float, kind: str = "sharp") -> tuple[float, float]:
    """Return the least and the greatest possible gain of the buyer.

    Parameters
    ----------
    gain
        The seller's own gain-from-trade as an error ratio, at least 0.
    alpha
        Weight with which the seller buys from the buyer, in [0, 1].
    beta
        Weight with which the buyer buys from the seller, in [0, 1].
    kind
        ``"sharp"``: the bounds are attained. ``"paper"``: those of Theorem 4.1. Its printed upper
        bound holds only if its denominator is positive; otherwise it is infinite here.

    Returns
    -------
    tuple of float
        Lower and upper bound of the buyer's gain as an error ratio; the upper one may be infinite.

    Raises
    ------
    MarketError
        If the kind is unknown, or a number is out of its range.
    """
    if kind not in KINDS:
        raise MarketError(f"the kind of bounds must be one of {', '.join(KINDS)}; got {kind!r}")
    if not (0 <= gain < math.inf and 0 <= alpha <= 1 and 0 <= beta <= 1):
        raise MarketError(
            f"bounds need a gain of at least 0 and weights in [0, 1]; got the gain {gain} and the weights {alpha} "
            f"and {beta}"
        )
    if alpha == 0:
        return 0.0, math.inf  # a seller that buys nothing of a model learns nothing of it
    own = (1 - alpha) * math.sqrt(gain)
    if kind == "paper":
        other = ((1 - alpha) * (1 - beta) + alpha * beta) * math.sqrt(gain)
        upper = _square_ratio(1 + own, 1 - beta - other) if 1 - beta - other > 0 else math.inf
        return _square_ratio(1 - own, 1 - beta + other), upper
    other = (alpha + beta - 1) * math.sqrt(gain)
    ends = [(1 - own, 1 - beta + other), (1 + own, 1 - beta - other)]
    # if both vanish at one end, the gain is the same for every cosine: that of the other end
    values = [_square_ratio(*end) for end in ends if end != (0.0, 0.0)]
    return min(values), max(values)


def exact_gain(gain: float, alpha: float) -> float:
    """Return the buyer's gain as an error ratio, if both weights minimise over the same segment.

    A seller that knows α and its own gain then knows the buyer's: ``1 + ((1 - α) / α)² (gain -
    1)``.

    Parameters
    ----------
    gain
        The seller's own gain-from-trade as an error ratio.
    alpha
        Weight with which the seller buys from the buyer, in (0, 1].

    Raises
    ------
    MarketError
        If a number is out of its range.

    Examples
    --------
    >>> exact_gain(1.5, alpha=0.5)
    1.5
    """
    if not (0 <= gain < math.inf and 0 < alpha <= 1):
        raise MarketError(
            f"the buyer's gain needs a gain of at least 0 and a weight in (0, 1]; got the gain {gain} and the "
            f"weight {alpha}"
        )
    return 1 + ((1 - alpha) / alpha) ** 2 * (gain - 1)


def _square_ratio(numerator: float, denominator: float) -> float:
    return math.inf if denominator == 0 else (numerator / denominator) ** 2
