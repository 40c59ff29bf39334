r"""Merge a seller's aligned parameters into a buyer's.

:math:`\bar\theta = (1 - \alpha)\,\hat\theta_b + \alpha\,\hat\theta_s` (paper, section 3.2). The
paper once writes the buyer's own parameters without their hat; both sides are the parameters after
local training.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from fl_market.errors import MarketError
from fl_market.parameters import StateDict, copied, state_of

Alpha = float | Mapping[str, Tensor]
"""Purchased weight: one number, or for each float tensor a weight that broadcasts against it."""
Merge = Callable[[Alpha], StateDict]
"""From a purchased weight to the merged model."""


def interpolate(buyer: nn.Module | StateDict, seller: nn.Module | StateDict, alpha: Alpha) -> dict[str, Tensor]:
    """Return ``(1 - alpha) * buyer + alpha * seller``, tensor by tensor.

    Parameters
    ----------
    buyer, seller
        Modules or state dicts of one architecture, the seller's already aligned to the buyer's.
    alpha
        Purchased weight in [0, 1]: a number, or a mapping from tensor names to weights that
        broadcast against the tensor. Integer tensors (counters) stay the buyer's, and so do tensors
        that the two share (the same object).

    Returns
    -------
    dict
        A new state dict, differentiable in ``alpha``.

    Raises
    ------
    MarketError
        If the two state dicts differ in names, or if ``alpha`` is a number outside [0, 1] or lacks
        a tensor.

    Examples
    --------
    >>> import torch
    >>> buyer, seller = {"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([4.0, 2.0])}
    >>> interpolate(buyer, seller, 0.25)["w"].tolist()
    [1.0, 2.0]
    """
    own, other = state_of(buyer), state_of(seller)
    if own.keys() != other.keys():
        raise MarketError("buyer and seller must have parameters of the same names to be merged")
    if not isinstance(alpha, Mapping) and not 0 <= alpha <= 1:
        raise MarketError(f"the purchased weight must be in [0, 1]; got {alpha}")
    merged = copied(own)
    for name, tensor in own.items():
        if not tensor.is_floating_point() or other[name] is tensor:
            continue  # a tensor that is not for sale is the buyer's own, to the last bit
        if isinstance(alpha, Mapping) and name not in alpha:
            raise MarketError(f"the purchased weights lack one for {name!r}")
        weight = alpha[name] if isinstance(alpha, Mapping) else alpha
        # weights are exact at both ends, unlike buyer + alpha * (seller - buyer)
        merged[name] = ((1 - weight) * tensor + weight * other[name]).to(tensor.dtype)
    return merged
