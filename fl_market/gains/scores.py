"""Scores of a classifier on the broker's data, after the calibration that needs no seller.

A merge cools the outputs of an overconfident model, and so does a temperature. Models are therefore
compared after the best temperature of each (Guo et al. 2017, *On Calibration of Modern Neural
Networks*), so that no seller is paid for a division. The score is Brier's: it is proper, and unlike
the logarithmic loss it is bounded, so that bounds of its mean hold for finite samples.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

COLDEST, HOTTEST = 0.05, 20.0
"""Range of temperatures."""


@dataclass(frozen=True)
class Scores:
    """Scores of one model, one of each kind for each sample; lower is better.

    Attributes
    ----------
    loss
        The task's criterion on the outputs as they are, shape (samples,).
    brier
        Half the Brier score of the calibrated probabilities, shape (samples,), in [0, 1] times the
        weight of the sample.
    error
        1 times the weight of the sample where the largest output is not the target's, else 0; shape
        (samples,).
    highest
        Largest possible value of the last two: the largest weight of a sample.
    """

    loss: Tensor
    brier: Tensor
    error: Tensor
    highest: float = 1.0


@dataclass(frozen=True)
class SplitScores:
    """Scores of one model on both splits of the broker's data.

    Attributes
    ----------
    fit, certify
        The scores on each split, with the temperature of the fit split.
    """

    fit: Scores
    certify: Scores


def scores_of(outputs: Tensor, targets: Tensor, losses: Tensor, warmth: float, weights: Tensor | None = None) -> Scores:
    """Return the scores of some outputs.

    Parameters
    ----------
    outputs
        Logits or logarithms of probabilities, shape (samples, classes).
    targets
        Classes, shape (samples,).
    losses
        The task's losses of these outputs, shape (samples,).
    warmth
        Temperature that divides the outputs.
    weights
        Weight of each sample, with mean 1; None for equal weights.
    """
    probabilities = torch.softmax(outputs.double() / warmth, dim=1)
    hit = nn.functional.one_hot(targets, outputs.shape[1])
    brier = (probabilities - hit).square().sum(1) / 2
    error = (outputs.argmax(1) != targets).double()
    broken = ~torch.isfinite(outputs).all(1)
    brier[broken], error[broken] = 1.0, 1.0  # an output that overflows predicts nothing
    if weights is None:
        return Scores(losses, brier, error)
    return Scores(losses, brier * weights, error * weights, float(weights.max()))


def temperature(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> float:
    """Return the temperature with the least logarithmic loss.

    Parameters
    ----------
    outputs, targets, weights
        As in :func:`scores_of`, of the fit split.

    Examples
    --------
    >>> sure_and_right_in_three_of_four = torch.tensor([[9.0, 0.0]] * 4)
    >>> found = temperature(sure_and_right_in_three_of_four, torch.tensor([0, 0, 0, 1]))
    >>> round(9.0 / found, 3) == round(float(np.log(3)), 3)
    True
    """
    if not bool(torch.isfinite(outputs).all()):
        return 1.0
    # relative to the largest output: no exponential overflows
    values = (outputs - outputs.max(1, keepdim=True).values).double().cpu().numpy()
    own = values[np.arange(len(values)), targets.cpu().numpy()]
    factors = np.ones(len(values)) if weights is None else weights.double().cpu().numpy()

    def loss(logarithm: float) -> float:
        warmth = np.exp(logarithm)
        return float(np.mean(factors * (np.log(np.exp(values / warmth).sum(1)) - own / warmth)))

    from scipy.optimize import minimize_scalar  # slow to import, for agents' processes that need no scores

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))
