"""Linear assignment problems that follow each other closely."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

_PRICED_FROM = 256
"""Problems of this size or larger are eased by the prices of the last one."""
_STEPS = 4
"""Steps of Bellman and Ford's algorithm: few suffice, as the prices need not be exact."""

_LARGEST = 1e30
"""Cost in place of an infinite one; sums of many are finite."""


class Assignment:
    """A sequence of linear assignment problems, each much like the one before it.

    A price on each row and column changes no optimum. With the prices of the last solution most
    units find their partner at once. scipy's solver takes no prices, but they can be subtracted
    from its matrix.
    """

    def __init__(self) -> None:
        self._rows: NDArray[np.float32] | None = None
        self._columns: NDArray[np.float32] | None = None

    def solve(self, similarity: Tensor) -> NDArray[np.int64]:
        """Return for each row its column, where the sum of similarities is greatest.

        Parameters
        ----------
        similarity
            Shape (units, units). Between two calls its columns may have been reordered by the last
            solution, but not otherwise.
        """
        cost = -similarity.numpy()
        if not np.isfinite(cost).all():  # the parameters of a diverged or hostile model may overflow
            cost = np.nan_to_num(cost, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST).clip(-_LARGEST, _LARGEST)
        if len(cost) < _PRICED_FROM:
            return linear_sum_assignment(cost)[1].astype(np.int64)
        if self._rows is None or self._columns is None:
            self._rows, self._columns = cost.mean(1), cost.mean(0)
        order = linear_sum_assignment(cost - self._rows[:, None] - self._columns)[1].astype(np.int64)
        solved = cost[:, order]
        diagonal = solved.diagonal()
        slack = solved - diagonal
        for _ in range(_STEPS):
            self._rows = np.minimum(self._rows, (slack + self._rows).min(1))
        self._columns = diagonal - self._rows
        return order
