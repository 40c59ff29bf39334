"""A user-defined valuation: the buyer pays only for gains above a threshold.

    fl-market run --strategy market-priced --valuation "examples/own_valuation.py:above(0.01)"

A valuation is a function from an offer to credits; a negative value counts as 0.
"""

from collections.abc import Callable

from fl_market.protocol import Offer


def certain(offer: Offer) -> float:
    """Return the lower bound of the certified gain.

    Used as ``examples/own_valuation.py:certain``.
    """
    return offer.lower_bound


def above(threshold: float) -> Callable[[Offer], float]:
    """Return the valuation: the gain in credits above the threshold, else 0."""

    def valuation(offer: Offer) -> float:
        return offer.gain if offer.gain > threshold else 0.0

    return valuation
