r"""What a seller can infer about the buyer's gain-from-trade (paper, section 4, Theorem 4.1).

Agent A sells to agent B. A knows its own gain :math:`\Delta_a`, the weight α with which it buys from B, and the weight
β with which B buys from A; all gains are error ratios :math:`\lVert e\rVert^2 / \lVert\bar e\rVert^2` (Eq. 3). With
:math:`r = \sqrt{\Delta_a}`, B's gain is a Möbius function of the one thing that A does not know, the cosine between
the two errors; it is monotone, so that its values at -1 and 1 are sharp bounds.
"""

import math

from fl_market.errors import MarketError

KINDS = ("paper", "sharp")


def gain_bounds(gain: float, alpha: float, beta: float, kind: str = "sharp") -> tuple[float, float]:
    """Return the least and the greatest gain that the buyer can have.

    Parameters
    ----------
    gain
        The seller's own gain-from-trade as an error ratio, at least 0.
    alpha
        Weight with which the seller buys from the buyer, in [0, 1].
    beta
        Weight with which the buyer buys from the seller, in [0, 1].
    kind
        ``"sharp"``: the bounds are attained. ``"paper"``: those of Theorem 4.1. Its printed upper bound holds only
        where its denominator is positive; elsewhere it is infinite here.

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
        raise MarketError(f"unknown kind of bounds {kind!r}; accepted are {', '.join(KINDS)}")
    if not (0 <= gain < math.inf and 0 <= alpha <= 1 and 0 <= beta <= 1):
        raise MarketError(
            f"a gain of {gain} with the weights {alpha} and {beta} has no bounds; accepted are a gain of at least 0 "
            "and weights in [0, 1]"
        )
    if alpha == 0:
        return 0.0, math.inf  # the seller's gain says nothing of a model of which it buys nothing
    own = (1 - alpha) * math.sqrt(gain)
    if kind == "paper":
        other = ((1 - alpha) * (1 - beta) + alpha * beta) * math.sqrt(gain)
        upper = _square_ratio(1 + own, 1 - beta - other) if 1 - beta - other > 0 else math.inf
        return _square_ratio(1 - own, 1 - beta + other), upper
    other = (alpha + beta - 1) * math.sqrt(gain)
    ends = [(1 - own, 1 - beta + other), (1 + own, 1 - beta - other)]
    # where both vanish at one end, the gain is the same for every cosine, and the other end has it
    values = [_square_ratio(*end) for end in ends if end != (0.0, 0.0)]
    return min(values), max(values)


def exact_gain(gain: float, alpha: float) -> float:
    """Return the buyer's gain as an error ratio, where both weights are the true minimisers over the same segment.

    Whoever is told α and its own gain knows the other's: ``1 + ((1 - α) / α)² (gain - 1)``.

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
    """
    if not (0 <= gain < math.inf and 0 < alpha <= 1):
        raise MarketError(
            f"the buyer's gain does not follow from a gain of {gain} and a weight of {alpha}; accepted are a gain of "
            "at least 0 and a weight in (0, 1]"
        )
    return 1 + ((1 - alpha) / alpha) ** 2 * (gain - 1)


def _square_ratio(numerator: float, denominator: float) -> float:
    return math.inf if denominator == 0 else (numerator / denominator) ** 2
