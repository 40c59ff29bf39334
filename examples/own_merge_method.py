"""A user-defined merge method that buys only the larger half of each tensor's differences.

    fl-market compare --merge examples/own_merge_method.py:largest_half --arms market

A merge method is a function of the buyer's model, the aligned seller's model and the purchased
weight α. At α = 0 it returns the buyer's model; ``fl_market.merging.testing`` checks this.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fl_market.merging import Alpha, interpolate


def largest_half(buyer: Mapping[str, Tensor], seller: Mapping[str, Tensor], alpha: Alpha) -> dict[str, Tensor]:
    """Return the interpolation of entries with large differences, and the buyer's other entries.

    A difference is large if it is at least the median of its tensor.
    """
    return interpolate(buyer, {name: _trimmed(tensor, seller[name]) for name, tensor in buyer.items()}, alpha)


def _trimmed(own: Tensor, other: Tensor) -> Tensor:
    """Return the seller's tensor with the buyer's entries where differences are small."""
    if other is own or not own.is_floating_point():
        return other  # shared tensors are not for sale
    difference = (other - own).abs()
    return torch.where(difference >= difference.median(), other, own)
