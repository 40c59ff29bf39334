r"""Certify a gain-from-trade on data that chose nothing.

Paper, section 3.3 and Eq. 4: :math:`\Delta = L_z(\hat\theta) - L_z(\bar\theta)`, or its ratio to
:math:`L_z(\hat\theta)`, which the published tables used. The paper measures the gain on the very
samples that chose α. The best of ten α then reports a "gain" nearly always, also without one (the
winner's curse). Here α is chosen on the *fit* split, and the gain is certified on a disjoint
*certify* split, with a lower confidence bound.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import Tensor

from fl_market.choices import GAINS
from fl_market.errors import MarketError
from fl_market.gains.bounds import mean_lower_bound
from fl_market.gains.scores import Scores

OWN = "own"
"""Name of the alternative that is the buyer's model as it is."""


@dataclass(frozen=True)
class Certificate:
    """The broker's certificate of one possible purchase.

    Attributes
    ----------
    gain
        Estimated gain-from-trade: loss units for ``"difference"``, a share of the loss before for
        ``"relative"``.
    lower_bound
        One-sided lower confidence bound of the gain.
    confidence
        Level of that bound.
    loss_before, loss_after
        Mean loss of the buyer's own and of the merged model on the certify split.
    samples
        Size of the certify split.
    harmed
        Classes whose loss is not certified to stay within the tolerance, if there is one.
    over
        The alternative that the gain is measured over: the best that the buyer could have without
        this purchase.
    harms
        Measures of the whole, such as ``"loss"``, that may rise beyond the tolerance.
    """

    gain: float
    lower_bound: float
    confidence: float
    loss_before: float
    loss_after: float
    samples: int
    harmed: tuple[int, ...] = ()
    over: str = "own"
    harms: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """The loss before over the loss after, Eq. 3's error ratio for losses: 1 without a gain."""
        ratio = self.loss_before / max(self.loss_after, np.finfo(float).tiny)
        return ratio if math.isfinite(ratio) else np.finfo(float).max

    @property
    def positive(self) -> bool:
        """Whether the gain is certified: its lower bound is above zero, and nothing is harmed."""
        return self.lower_bound > 0 and not self.harmed and not self.harms


def certify(before: Tensor, after: Tensor, *, confidence: float = 0.95, kind: str = "relative") -> Certificate:
    """Certify a gain from the losses of two models on the same samples.

    Parameters
    ----------
    before, after
        Losses, one for each sample of the certify split, shape (samples,): of the buyer's own and
        of the merged model.
    confidence
        Level of the one-sided lower bound, in (0, 1).
    kind
        ``"relative"`` to the loss before, or the ``"difference"``.

    Returns
    -------
    Certificate
        The bound is Student's t on the paired differences, divided by the mean loss before where
        the gain is relative. The division cannot change its sign, and the sign gates a trade.

    Raises
    ------
    MarketError
        If the two have different lengths or fewer than two samples, or if an option is invalid.

    Examples
    --------
    >>> import torch
    >>> before, after = torch.tensor([2.0, 4.0, 6.0]), torch.tensor([1.0, 2.0, 3.0])
    >>> certify(before, after, kind="difference").gain
    2.0
    """
    if before.shape != after.shape or before.dim() != 1 or len(before) < 2:
        raise MarketError("a certificate needs the losses of both models on the same two or more samples")
    if not 0 < confidence < 1:
        raise MarketError(f"confidence must be in (0, 1); got {confidence}")
    if kind not in GAINS:
        raise MarketError(f"gain must be one of {', '.join(GAINS)}; got {kind!r}")
    own = before.detach().double().cpu().numpy()
    merged = after.detach().double().cpu().numpy()
    mean, bound = _mean_and_lower_bound(own - merged, confidence)
    scale = 1.0 if kind == "difference" else max(float(own.mean()), np.finfo(float).tiny)
    gain, lower_bound = mean / scale, bound / scale
    if not np.isfinite([gain, lower_bound]).all():
        # a merged model whose loss overflows is no bargain; a number must still be reported
        gain = lower_bound = -np.finfo(float).max
    return Certificate(gain, lower_bound, confidence, float(own.mean()), float(merged.mean()), len(own))


def certify_increment(
    alternatives: Mapping[str, Scores], merged: Scores, *, kind: str = "relative", error: float, finite: bool = True
) -> Certificate:
    """Certify the increment of a merged model over the best of some alternatives.

    Parameters
    ----------
    alternatives
        Name -> the scores of a model that the buyer could have without this purchase; at least one.
    merged
        Scores of the merged model on the same samples.
    kind
        ``"relative"`` to the alternative's score, or the ``"difference"``.
    error
        Probability of a bound above the expected increment, in (0, 1).
    finite
        Bounds by betting, which hold for any number of samples; else Student's.

    Returns
    -------
    Certificate
        The gain is that over the alternative with the best Brier score. The lower bound is the
        lowest of those over each alternative. The increment over the best of them is at most 0 only
        if that over some alternative is, whose own bound then errs: the error is not divided among
        the alternatives (an intersection-union test).

    Examples
    --------
    >>> import torch
    >>> before, after = torch.full((300,), 0.5), torch.full((300,), 0.25)
    >>> own, merged = Scores(before, before, before), Scores(after, after, after)
    >>> found = certify_increment({"own": own}, merged, error=0.01)
    >>> found.gain, found.positive
    (0.5, True)
    """
    after = _numbers(merged.brier)
    before = {name: _numbers(scores.brier) for name, scores in alternatives.items()}
    over = min(before, key=lambda name: (before[name].mean(), name))
    bounds = []
    for name, scores in alternatives.items():
        if finite:
            highest = max(scores.highest, merged.highest)
            bounds.append(mean_lower_bound(before[name] - after, -highest, highest, error))
        else:
            bounds.append(_mean_and_lower_bound(before[name] - after, 1 - error)[1])
    mean = float((before[over] - after).mean())
    scale = 1.0 if kind == "difference" else max(float(before[over].mean()), np.finfo(float).tiny)
    own = alternatives.get(OWN, alternatives[over])
    losses = [min(float(scores.loss.double().mean()), np.finfo(float).max) for scores in (own, merged)]
    return Certificate(mean / scale, min(bounds) / scale, 1 - error, losses[0], losses[1], len(after), over=over)


def harms(own: Scores, merged: Scores, tolerance: float, confidence: float) -> tuple[str, ...]:
    """Return the measures that are not certified to stay within a tolerance of the buyer's own.

    Parameters
    ----------
    own, merged
        Scores of the buyer's model and of the merged one on the same samples.
    tolerance
        Highest rise: a share of the own loss, and of all samples for the share of errors.
    confidence
        Level of Student's upper bound of each rise, in (0, 1).
    """
    found = []
    for name, limit in (("loss", tolerance * float(own.loss.double().mean())), ("error", tolerance)):
        before, after = _numbers(getattr(own, name)), _numbers(getattr(merged, name))
        bound = _mean_and_lower_bound(before - after, confidence)[1]
        if not bound >= -limit:  # also where it is not a number
            found.append(name)
    return tuple(found)


def told(number: float) -> float:
    """Return a number rounded down to one significant digit: what agents learn of a gain.

    Exact gains of many proposals would tell a seller in which direction the certify split lies.

    Examples
    --------
    >>> told(0.0376), told(0.31), told(0.0)
    (0.03, 0.3, 0.0)
    >>> told(-0.012)
    -0.02
    """
    if number == 0 or not math.isfinite(number):
        return number
    exact = Decimal(repr(float(number)))
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted()), rounding=ROUND_FLOOR))


def _numbers(values: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values.detach().double().cpu().numpy()
    return found


def class_rises(before: Tensor, after: Tensor, classes: Tensor, *, confidence: float = 0.95) -> dict[int, float]:
    """Return upper bounds of the rise of each class's loss.

    Parameters that are poisoned to be good on average and bad on one class have a certified gain;
    the bounds show the class. They are an addition to the paper.

    Parameters
    ----------
    before, after
        As in :func:`certify`.
    classes
        The class of each sample, shape (samples,).
    confidence
        Level of the one-sided upper bounds, in (0, 1), each for itself.

    Returns
    -------
    dict
        Class -> upper bound of its mean loss after less that before. A class with one sample has no
        bound: inf.
    """
    rises = (after - before).detach().double().cpu().numpy()
    numbers = classes.cpu().numpy()
    found = {}
    for number in np.unique(numbers):
        own = rises[numbers == number]
        bound = -_mean_and_lower_bound(-own, confidence)[1] if len(own) > 1 else math.inf
        found[int(number)] = bound if not math.isnan(bound) else math.inf
    return found


def _mean_and_lower_bound(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Return the mean of some values, and Student's one-sided lower bound of their expectation."""
    with np.errstate(invalid="ignore", over="ignore"):  # losses that overflow have no finite bound
        mean = float(values.mean())
        error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean, mean - float(stdtrit(len(values) - 1, confidence)) * error
