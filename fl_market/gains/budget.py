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

*The code W* (a description length, as for the reusable holdout of Dwork et al. 2015, section 4).
The fit split is known: it shows which offers will be priced, and with what gain, and only what
differs from that tells something. Of the offers that it foresees, one is priced with the estimate
of Krichevsky and Trofimov: after k priced ones of n, the next is priced with probability
:math:`(k + 1/2) / (n + 1)`; and likewise of the others. A gain that is k numbers with one digit
away from the foreseen one has the probability :math:`2^{-|k|} / 3` (:func:`near_weight`). One that
was not foreseen, from :math:`10^{-j}` to :math:`10^{-j+1}`, :math:`j \ge 1`, has
:math:`2^{-j} / 2` (the other half is for numbers of 1 and more), and each of the nine digits 1/9
(:func:`value_weight`). The level falls with each surprise: a split of some size certifies only so
many of them.
"""

import math
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


def near_weight(gain: float, foreseen: float) -> float:
    """Return the probability of a told gain where another one is foreseen.

    Parameters
    ----------
    gain, foreseen
        Numbers above 0, as :func:`~fl_market.gains.told` returns them.

    Returns
    -------
    float
        Nine tenths by the distance from the foreseen gain, one tenth by :func:`value_weight`.

    Examples
    --------
    >>> [round(1 / near_weight(gain, 0.1), 1) for gain in (0.1, 0.2, 0.09, 0.05)]
    [3.3, 6.5, 6.6, 92.9]
    """
    distance = abs(_place(gain) - _place(foreseen))
    return 0.9 * 2.0**-distance / 3 + 0.1 * value_weight(gain)


def _place(number: float) -> int:
    """Return the place of a number with one digit among all of them in ascending order."""
    power = math.floor(math.log10(number) + 1e-9)
    return DIGITS * power + round(number / 10.0**power)


@dataclass(frozen=True)
class Counted:
    """Offers of one kind.

    Attributes
    ----------
    possible
        Number of offers that could have been priced.
    priced
        Number of those that were.
    """

    possible: int = 0
    priced: int = 0

    @property
    def probability(self) -> float:
        """Krichevsky and Trofimov's probability of the sequence of priced and other offers."""
        missed = self.possible - self.priced
        halves = math.lgamma(self.priced + 0.5) + math.lgamma(missed + 0.5) - math.lgamma(self.possible + 1)
        return math.exp(halves) / math.pi

    def __add__(self, other: "Counted") -> "Counted":
        return Counted(self.possible + other.possible, self.priced + other.priced)


@dataclass(frozen=True)
class ErrorBudget:
    """The error of a run, and what its agents were told of the certify split.

    Attributes
    ----------
    error
        Highest probability of any false certificate in the run, in (0, 1).
    foreseen, others
        The offers so far that the fit split foresaw as priced, and all other decisions by the
        certify split that agents could see.
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
    >>> unforeseen = budget.after(Counted(), Counted(2, 1), value_weight(0.3))
    >>> round(1 / unforeseen.told, 6)  # 1/8 for one of two, and 1/36 for the gain
    288.0

    The fit split foresaw that one of them would be priced, with this gain:

    >>> foreseen = budget.after(Counted(1, 1), Counted(1, 0), near_weight(0.3, 0.3))
    >>> round(1 / foreseen.told, 1)
    13.2
    """

    error: float = 0.05
    foreseen: Counted = Counted()
    others: Counted = Counted()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.error < 1:
            raise MarketError(f"error must be in (0, 1); got {self.error}")

    @property
    def told(self) -> float:
        """The probability of all that was told so far."""
        return self.weight * self.foreseen.probability * self.others.probability

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

    def after(self, foreseen: Counted, others: Counted, weight: float = 1.0) -> "ErrorBudget":
        """Return the budget after the offers of a round.

        Parameters
        ----------
        foreseen, others
            The round's offers that were foreseen as priced, and all other decisions by the certify
            split that agents could see.
        weight
            Probability of the round's told numbers.
        """
        return replace(
            self,
            foreseen=self.foreseen + foreseen,
            others=self.others + others,
            weight=self.weight * weight,
        )
