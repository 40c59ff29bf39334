"""Buy from several sellers at once: purchased weights on the simplex."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.gains.losses import Loss
from fl_market.merging.descent import Variables, descend, hold_out
from fl_market.parameters import StateDict, copied, state_of


def merge_many(
    buyer: nn.Module | StateDict,
    sellers: Sequence[nn.Module | StateDict],
    weights: Sequence[float] | Tensor | None = None,
) -> dict[str, Tensor]:
    """Return ``(1 - Σ weights) * buyer + Σ weights[i] * sellers[i]``, tensor by tensor.

    Parameters
    ----------
    buyer
        Module or state dict.
    sellers
        One or more, already aligned to the buyer (:func:`fl_market.permutation.match_many`).
    weights
        Purchased weight of each seller, at least 0 and together at most 1; the buyer keeps the
        rest. By default all models, the buyer's among them, count alike.

    Returns
    -------
    dict
        A new state dict, differentiable in ``weights``; integer tensors stay the buyer's.

    Raises
    ------
    MarketError
        If there is no seller, names differ, or a weight is invalid.
    """
    own, others = state_of(buyer), [state_of(seller) for seller in sellers]
    if not others or any(other.keys() != own.keys() for other in others):
        raise MarketError("merge_many needs one or more sellers whose parameters have the names of the buyer's")
    shares = torch.as_tensor([1 / (len(others) + 1)] * len(others) if weights is None else weights)
    given = shares.detach()
    if given.shape != (len(others),) or not bool((given >= 0).all()) or not float(given.sum()) <= 1 + 1e-6:
        raise MarketError(
            "weights must be one number for each seller, each at least 0 and together at most 1; "
            f"got {given.tolist()} for {len(others)} sellers"
        )
    merged = copied(own)
    for name, tensor in own.items():
        if tensor.is_floating_point():
            merged[name] = (1 - shares.sum()) * tensor
            for share, other in zip(shares, others, strict=True):
                merged[name] = merged[name] + share * other[name]
    return merged


def fit_simplex(
    buyer: nn.Module | StateDict,
    sellers: Sequence[nn.Module | StateDict],
    loss: Loss,
    fit_data: Batch,
    *,
    steps: int = 100,
    learning_rate: float = 0.1,
) -> Tensor:
    """Return the sellers' purchased weights that minimise the broker's loss on the fit split.

    Adam's steps on the logits of a softmax over the buyer and all sellers start from equal weights,
    and are stopped by the held-out part of the fit split. The buyer alone is among the candidates:
    where no seller helps, all weights are 0.

    Parameters
    ----------
    buyer, sellers
        As :func:`merge_many` takes them.
    loss, fit_data
        As :func:`fl_market.merging.fit_weights` takes them.
    steps, learning_rate
        Adam's.

    Returns
    -------
    Tensor
        Shape (sellers,); as ``weights`` for :func:`merge_many`.
    """

    def weights(variables: Variables) -> Tensor:
        return torch.softmax(variables["logits"], 0)[1:]

    def merged(variables: Variables) -> StateDict:
        return merge_many(buyer, sellers, weights(variables))

    nothing = torch.zeros(len(sellers))
    _, held_out = hold_out(fit_data)
    with torch.no_grad():
        loss_alone = float(loss(merge_many(buyer, sellers, nothing), held_out).mean())
    logits = torch.zeros(len(sellers) + 1, requires_grad=True)
    found = descend({"logits": logits}, merged, loss, fit_data, steps=steps, learning_rate=learning_rate)
    return weights(found.variables) if found.loss < loss_alone else nothing
