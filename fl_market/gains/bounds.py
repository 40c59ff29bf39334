r"""Bound the mean of bounded values from below, at a fixed sample size and without a model.

Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by betting", section
4. To test whether the mean is at most :math:`m`, bet on each value in turn that it is greater. The
capital :math:`K_t(m) = \prod_{i \le t} (1 + \lambda_i (x_i - m))` starts at 1. If the mean is at
most :math:`m`, no choice of the bets :math:`\lambda_i \ge 0` makes it grow on average, as long as
each depends on earlier values alone. By Ville's inequality it then ever reaches :math:`1 / \delta`
with a probability of at most :math:`\delta`. The lower bound is the greatest :math:`m` at which the
capital reached :math:`1 / \delta`.

Student's t has no such guarantee. Its error is near the nominal one where the mean of the values is
near normal, and it can be far above it for skewed values or for errors such as 1e-5.
"""

import math

import numpy as np
from numpy.typing import NDArray

from fl_market.errors import MarketError

CAP = 0.95
"""Highest share of the capital that one value may lose."""
PRIOR_MEAN, PRIOR_VARIANCE = 0.5, 0.05
"""Estimates before the first value, with the weight of one value, for values in [0, 1]."""
TOLERANCE = 1e-12
"""Error of the root of the capital, in units of the range."""


def mean_lower_bound(values: NDArray[np.float64], low: float, high: float, error: float) -> float:
    r"""Return a lower confidence bound of the mean of independent values.

    Parameters
    ----------
    values
        Independent values of one distribution, shape (samples,). Their order must not depend on
        them: it decides the bets.
    low, high
        Range of the values, known in advance.
    error
        Highest probability that the bound exceeds the mean, in (0, 1).

    Returns
    -------
    float
        The bound: at least ``low``, and at most the mean of the sample.

    Raises
    ------
    MarketError
        If there are no values, a value is outside the range, or an argument is invalid.

    Notes
    -----
    The bets are those of the paper's section 4.2 for a fixed sample size n,
    :math:`\lambda_t = \sqrt{2 \ln(1 / \delta) / (n \hat\sigma^2_{t-1})}`, with the variance of the
    values before t. They are truncated so that one value loses at most the share ``CAP``.

    The choice follows a comparison on sparse, skewed and dense differences, 250 or 2 500 of them,
    with errors from 0.05 to 1e-5. On average this bound certified 81 % of the gains, as did the
    best constant bet with the variance known. The capital at the end alone certified 77 %, Kelly's
    bets 70 %, mixtures of constant bets at most 68 %, this bound with a cap of 0.5 55 %, the
    paper's empirical Bernstein bound 18 %, and Hoeffding's bound none.

    Examples
    --------
    >>> differences = np.tile([0.4, 0.0, 0.0, 0.4, 0.0, -0.4, 0.0, 0.0, 0.0, 0.0], 50)
    >>> round(mean_lower_bound(differences, -1, 1, 0.05), 4)
    0.0174
    >>> round(mean_lower_bound(differences, -1, 1, 0.001), 4)
    0.0048
    """
    unit = _in_unit_interval(values, low, high, error)
    bets = _bets(unit, error)

    def excess(mean: float) -> float:
        return _log_capital(unit, bets, mean) + math.log(error)

    if excess(0.0) < 0:
        return float(low)
    # the capital may peak before the end, on early values with a greater mean than the sample
    bound = float(unit.mean())
    if excess(bound) < 0:
        from scipy.optimize import brentq  # slow to import, for agents' processes that need no bound

        bound = max(float(brentq(excess, 0.0, bound, xtol=TOLERANCE)) - 2 * TOLERANCE, 0.0)
    return low + (high - low) * bound


def mean_exceeds(values: NDArray[np.float64], low: float, high: float, threshold: float, error: float) -> bool:
    """Return whether :func:`mean_lower_bound` is above a threshold, in about a quarter of the time.

    Parameters
    ----------
    values, low, high, error
        As in :func:`mean_lower_bound`.
    threshold
        The mean to exceed.

    Examples
    --------
    >>> differences = np.tile([0.4, 0.0, 0.0, 0.4, 0.0, -0.4, 0.0, 0.0, 0.0, 0.0], 50)
    >>> mean_exceeds(differences, -1, 1, 0.0, 0.001), mean_exceeds(differences, -1, 1, 0.0, 1e-5)
    (True, False)
    """
    unit = _in_unit_interval(values, low, high, error)
    mean = (threshold - low) / (high - low)
    if not 0 <= mean < unit.mean():
        return mean < 0
    return _log_capital(unit, _bets(unit, error), mean) + math.log(error) > 0


def _in_unit_interval(values: NDArray[np.float64], low: float, high: float, error: float) -> NDArray[np.float64]:
    if not 0 < error < 1:
        raise MarketError(f"error must be in (0, 1); got {error}")
    if not -math.inf < low < high < math.inf:
        raise MarketError(f"the range of the values must be finite and ascending; got {low} and {high}")
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found):
        raise MarketError(f"a bound needs a vector of one or more values; got the shape {found.shape}")
    if not ((found >= low) & (found <= high)).all():
        raise MarketError(f"values must be between {low} and {high}")
    return np.clip((found - low) / (high - low), 0.0, 1.0)


def _bets(unit: NDArray[np.float64], error: float) -> NDArray[np.float64]:
    """Return the bet on each value, which depends on the values before it alone."""
    numbers = np.arange(2, len(unit) + 2)
    means = (PRIOR_MEAN + np.cumsum(unit)) / numbers
    variances = (PRIOR_VARIANCE + np.cumsum((unit - means) ** 2)) / numbers
    before = np.concatenate([[PRIOR_VARIANCE], variances[:-1]])
    return np.sqrt(-2 * math.log(error) / (len(unit) * before))


def _log_capital(unit: NDArray[np.float64], bets: NDArray[np.float64], mean: float) -> float:
    """Return the logarithm of the greatest capital, which falls as the mean rises."""
    # at the cap a factor is 1 - CAP + CAP · value / mean, which falls in the mean too
    bounded = np.minimum(bets, CAP / mean) if mean > 0 else bets
    return float(np.log1p(bounded * (unit - mean)).cumsum().max())
