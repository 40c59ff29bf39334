"""What a buyer wants to be good at.

The broker tries and certifies each purchase on the buyer's own target distribution. With one loss common to all, two
agents that buy from each other end with one model, up to a permutation. A buyer that registers target class weights,
or validation data of its own, keeps its own purpose.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_market.errors import MarketError
from fl_market.gains.losses import Batch, Loss
from fl_market.parameters import StateDict


@dataclass(frozen=True)
class Purpose:
    """A loss, and the data that choose α and certify the gain.

    Attributes
    ----------
    loss
        Losses of a state dict on a batch, one for each sample.
    fit, certify
        Disjoint validation data.
    """

    loss: Loss
    fit: Batch
    certify: Batch


class WeightedLoss:
    """A loss whose samples count as much as their classes do, with a mean weight of 1 on each batch.

    Parameters
    ----------
    loss
        Losses of a state dict on a batch whose second part are class labels.
    class_weights
        One weight for each class, shape (classes,).
    """

    def __init__(self, loss: Loss, class_weights: Tensor) -> None:
        self._loss, self._class_weights = loss, class_weights

    def __call__(self, state: StateDict, data: Batch) -> Tensor:
        """Return the weighted losses, shape (samples,)."""
        weights = self._class_weights[data[1]]
        return self._loss(state, data) * (weights / weights.mean())


def weighted_purpose(common: Purpose, class_weights: Sequence[float]) -> Purpose:
    """Return the purpose of a buyer that values classes differently.

    Classes that it does not value at all are left out of the data, so that they do not blur the certificate.

    Parameters
    ----------
    common
        The broker's own loss and data.
    class_weights
        One weight of at least 0 for each class.

    Raises
    ------
    MarketError
        If the weights are none, are not as many as there are classes, or value no class of the data.
    """
    weights = torch.tensor(class_weights, dtype=torch.float32)
    classes = 1 + int(max(common.fit[1].max(), common.certify[1].max()))
    if weights.shape != (classes,) or not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise MarketError(f"a buyer's profile must be {classes} class weights of at least 0, one for each class")
    parts = [tuple(part[weights[data[1]] > 0] for part in data) for data in (common.fit, common.certify)]
    if min(len(part[0]) for part in parts) < 2:
        raise MarketError("a buyer's profile must value some class of which the broker has data")
    return Purpose(WeightedLoss(common.loss, weights), parts[0], parts[1])
