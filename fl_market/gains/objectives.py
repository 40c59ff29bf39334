"""The objective of a buyer: a loss, and the data on which purchases are fitted and certified.

With one loss common to all, two agents that buy from each other end with one model, up to a
permutation. A buyer may therefore register target class weights, a label space or validation data
of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fl_market.choices import LEAST_CERTIFY_SAMPLES
from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.gains.losses import Loss, ModelLoss
from fl_market.gains.scores import Scores, SplitScores, scores_of, temperature
from fl_market.parameters import StateDict
from fl_market.timing import timed


@dataclass(frozen=True)
class Profile:
    """An agent's description of its objective; every part is optional.

    Attributes
    ----------
    labels
        Label space: the classes that the outputs of its model stand for, in ascending order.
        Empty for all classes.
    class_weights
        Weight of each class in the objective. Empty for the weights of the data.
    validation
        Data of its own in place of the broker's; targets number the outputs of the agent's model.
    """

    labels: tuple[int, ...] = ()
    class_weights: tuple[float, ...] = ()
    validation: Batch | None = None


@dataclass(frozen=True)
class Objective:
    """A loss, and the data that choose α and certify the gain.

    Attributes
    ----------
    loss
        Losses of a state dict on a batch, one for each sample.
    fit, certify
        Disjoint validation data.
    classifier
        The architecture and criterion behind the loss; without one, there are no scores.
    class_weights
        Weight of each class, shape (classes,); None for the weights of the data.
    """

    loss: Loss
    fit: Batch
    certify: Batch
    classifier: ModelLoss | None = None
    class_weights: Tensor | None = None

    @timed("certification")
    def scores(self, state: StateDict) -> SplitScores:
        """Return a model's scores on both splits, calibrated on the fit split.

        Parameters
        ----------
        state
            Parameters of the model.

        Raises
        ------
        MarketError
            If there is no classifier.
        """
        if self.classifier is None:
            raise MarketError("the scores of a certificate need a classifier")
        fitted = self.classifier.outputs(state, self.fit)
        warmth = temperature(fitted, self.fit[1], self._weights(self.fit[1]))
        certified = self.classifier.outputs(state, self.certify)
        return SplitScores(
            self._scores(self.classifier, fitted, self.fit[1], warmth),
            self._scores(self.classifier, certified, self.certify[1], warmth),
        )

    def _scores(self, classifier: ModelLoss, outputs: Tensor, targets: Tensor, warmth: float) -> Scores:
        losses, weights = classifier.criterion(outputs, targets), self._weights(targets)
        return scores_of(outputs, targets, losses if weights is None else losses * weights, warmth, weights)

    def _weights(self, targets: Tensor) -> Tensor | None:
        return None if self.class_weights is None else sample_weights(self.class_weights, targets)


class WeightedLoss:
    """A loss with samples weighted by their classes; the mean weight of each batch is 1.

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
        return self._loss(state, data) * sample_weights(self._class_weights, data[1])


def sample_weights(class_weights: Tensor, targets: Tensor) -> Tensor:
    """Return the weight of each sample, with mean 1."""
    weights = class_weights[targets]
    return weights / weights.mean()


def check_validation(data: Batch, like: Batch, classes: int) -> None:
    """Raise MarketError unless data from an agent can take the place of the broker's own.

    Parameters
    ----------
    data
        Inputs and targets; their sender may be broken or hostile.
    like
        The broker's own.
    classes
        Outputs of the agent's model.
    """
    inputs, targets = data
    least = 2 * LEAST_CERTIFY_SAMPLES  # one half fits α, and the other certifies
    if inputs.dim() < 1 or targets.dim() != 1 or len(inputs) < least or len(inputs) != len(targets):
        raise MarketError(f"a buyer's own validation data must be at least {least} samples, each with its target")
    if inputs.shape[1:] != like[0].shape[1:] or inputs.dtype != like[0].dtype:
        raise MarketError(
            f"a buyer's own validation inputs must be {like[0].dtype} of shape {tuple(like[0].shape[1:])}"
        )
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        raise MarketError("a buyer's own validation inputs contain NaN or infinite values")
    if targets.dtype != like[1].dtype or not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        raise MarketError(f"a buyer's own validation targets must be whole numbers from 0 to {classes - 1}")


def weighted_objective(common: Objective, class_weights: Sequence[float], classes: int | None = None) -> Objective:
    """Return the objective of a buyer with class weights of its own.

    Classes of weight 0 are left out of the data, so that they do not blur the certificate.

    Parameters
    ----------
    common
        The broker's own loss and data.
    class_weights
        One weight of at least 0 for each class.
    classes
        Number of classes; by default, one more than the greatest target.

    Raises
    ------
    MarketError
        If a weight is invalid, their number differs from that of the classes, or no class of the
        data has a weight above 0.
    """
    weights = torch.tensor(class_weights, dtype=torch.float32, device=common.fit[1].device)
    if classes is None:
        classes = 1 + int(max(common.fit[1].max(), common.certify[1].max()))
    if weights.shape != (classes,) or not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise MarketError(f"a buyer's profile must be {classes} class weights of at least 0, one for each class")
    parts = [tuple(part[weights[data[1]] > 0] for part in data) for data in (common.fit, common.certify)]
    if min(len(part[0]) for part in parts) < 2:
        raise MarketError("a buyer's profile must value some class of which the broker has data")
    return replace(
        common, loss=WeightedLoss(common.loss, weights), fit=parts[0], certify=parts[1], class_weights=weights
    )
