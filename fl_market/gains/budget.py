r"""Divide the error of a run among its certificates, so that it holds for all of them together.

A run tests many purchases: of each buyer from each seller, in each round. With an error of 5 % for
each test, a run of a few rounds has a false one nearly always. Here the probability of *any* false
one in the run is at most 5 %, for any number of rounds, and whatever agents do with what they are
told. Two rules achieve this.

*Time.* The tests of round r share :math:`\delta s_r`, with :math:`\sum_r s_r = 1`
(:func:`round_share`).

*Told.* All rounds certify on the same samples. Each priced offer tells its buyer something about
them: that it is certified, and its gain with one digit. Agents could learn the split from many of
these. Let :math:`W` assign a probability to each sequence of things that a market may tell, with
:math:`\sum W \le 1` over all sequences of one length. After the sequence :math:`h`, the tests of
round r share :math:`\delta s_r W(h)`.

*Proof.* Until the certify split is used, agents and broker know nothing of it. Their models depend
on what was told so far, and on chance that has nothing to do with the split. Fix that chance. Then
each sequence that may have been told before round r determines the proposals of round r, and the
proposals of a fixed sequence do not depend on the split: each of their tests errs with a
probability of at most its level. Over all rounds, and all sequences that may have been told, these
levels sum to at most :math:`\delta \sum_r s_r \sum_h W(h) \le \delta`. Any dependence between tests
is allowed, and so is any collusion: the sum is over all that anyone may have been told.

*The code W* (a description length, as for the reusable holdout of Dwork et al. 2015, section 4). An
offer is priced with the estimate of Krichevsky and Trofimov: after k priced ones of n possible
ones, the next is priced with probability :math:`(k + 1/2) / (n + 1)`. A gain from :math:`10^{-j}`
to :math:`10^{-j+1}`, :math:`j \ge 1`, has the probability :math:`2^{-j} / 2` (the other half is
for numbers of 1 and more), and each of the nine digits 1/9. The level falls with each priced offer,
the more the fewer there were: a split of some size certifies only so many gains.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fl_market.errors import MarketError

DIGITS = 9
"""Number of told numbers between two powers of ten."""


def round_share(number: int) -> float:
    r"""Return the share of a round in the error of a run.

    Parameters
    ----------
    number
        Number of the round, from 1.

    Returns
    -------
    float
        :math:`1 / (2^k (k+1) (k+2))` with :math:`k = \lfloor \log_2 r \rfloor`. The :math:`2^k`
        rounds with the same k have :math:`1/((k+1)(k+2)) = 1/(k+1) - 1/(k+2)` together, so the sum
        over all rounds is 1. The number of rounds need not be known, and the shares fall little
        faster than 1/r.

    Raises
    ------
    MarketError
        If the number is less than 1.

    Examples
    --------
    >>> [round(1 / round_share(number)) for number in (1, 2, 3, 4, 7, 8, 30)]
    [2, 12, 12, 48, 48, 160, 480]
    >>> round(sum(round_share(number) for number in range(1, 2**10)), 6)  # 1 - 1/11
    0.909091
    """
    if number < 1:
        raise MarketError(f"rounds are numbered from 1; got {number}")
    octave = int(number).bit_length() - 1
    return 1.0 / ((1 << octave) * (octave + 1) * (octave + 2))


def value_weight(gain: float) -> float:
    """Return the probability of a told gain among all gains with one digit.

    Parameters
    ----------
    gain
        Number above 0, as :func:`~fl_market.gains.told` returns it.

    Examples
    --------
    >>> [round(1 / value_weight(gain)) for gain in (0.9, 0.1, 0.09, 0.001, 3.0)]
    [36, 36, 72, 144, 36]
    """
    power = math.floor(math.log10(gain) + 1e-9)
    # half of the probability is for numbers below 1, and half for the others
    return 2.0 ** -(-power if power < 0 else 1 + power) / 2 / DIGITS


@dataclass(frozen=True)
class ErrorBudget:
    """The error of a run, and what its agents were told of the certify split.

    Attributes
    ----------
    error
        Highest probability of any false certificate in the run, in (0, 1).
    possible
        Number of offers that could have been priced so far.
    priced
        Number of those that were.
    weight
        Probability of the told numbers.

    Raises
    ------
    MarketError
        If the error is out of range.

    Examples
    --------
    Two tests in each round; in round 1, one of two possible offers is priced, with the gain 0.3:

    >>> budget = ErrorBudget(0.05)
    >>> round(budget.level(1, 2), 6)
    0.0125
    >>> budget = budget.after(2, [0.3])
    >>> round(1 / budget.told, 6)  # 1/8 for one of two, and 1/36 for the gain
    288.0
    """

    error: float = 0.05
    possible: int = 0
    priced: int = 0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.error < 1:
            raise MarketError(f"error must be in (0, 1); got {self.error}")

    @property
    def told(self) -> float:
        """The probability of all that was told so far."""
        missed = self.possible - self.priced
        halves = math.lgamma(self.priced + 0.5) + math.lgamma(missed + 0.5) - math.lgamma(self.possible + 1)
        return self.weight * math.exp(halves) / math.pi

    def level(self, number: int, tests: int) -> float:
        """Return the level of a test in a round.

        Parameters
        ----------
        number
            Number of the round, from 1.
        tests
            Number of tests that can take place in the round, whatever their outcomes; each has an
            equal level.

        Raises
        ------
        MarketError
            If a number is less than 1.
        """
        if tests < 1:
            raise MarketError(f"tests must be at least 1; got {tests}")
        # an error of 0 has no bound: what no sample could certify is not certified at this one
        return max(self.error * round_share(number) / tests * self.told, 1e-300)

    def after(
        self, possible: int, gains: Sequence[float], numbers: Sequence[float] = (), others: int = 0
    ) -> "ErrorBudget":
        """Return the budget after the offers of a round.

        Parameters
        ----------
        possible
            Number of offers that could have been priced, and of other answers that the certify
            split could have decided.
        gains
            The told gains of those that were priced, above 0.
        numbers
            Other told numbers, above 0.
        others
            Number of the other answers that were positive.
        """
        return replace(
            self,
            possible=self.possible + possible,
            priced=self.priced + len(gains) + others,
            weight=math.prod(map(value_weight, [*gains, *numbers]), start=self.weight),
        )
