r"""Divide the error of a run among its tests, so that it holds for all purchases together.

A run tests many purchases: of each buyer from each seller, in each round. With an error of 5 % for
each test, a run of a few rounds has a false one nearly always. Here the probability of *any* false
one in the run, the familywise error, is at most 5 %, for any number of rounds.

Tian and Ramdas (2021), "Online control of the familywise error rate", section 3: the online
fallback procedure. Test :math:`i` has a base share :math:`b_i` of the error, with
:math:`\sum_i b_i \le \delta`, and the tests of a chain follow each other. The level of a test is
its base share, plus the whole level of the test before it in its chain, if that test succeeded. The
chains here are pairs of a buyer and a seller. Success speaks for the next purchase of the same
pair, so the level is used where it is likely to succeed again.

*Proof.* Follow the base shares of a chain until its first false success. A share passes a test only
if that test succeeds. A test of a true null hypothesis ("no gain") that succeeds is a false
success, so until then no share passes such a test: each share is charged to at most one, the first
that it reaches. Let :math:`B_i` be the sum of the shares that can reach the true null :math:`i`:
those of the tests since the true null before it in the chain, and its own. The :math:`B_i` depend
on no outcome, and each share is part of one. The first false success of a chain is therefore one at
a level of at most :math:`B_i`, for some :math:`i`, and the probability of any is at most
:math:`\sum_i B_i \le \sum_i b_i \le \delta`, whatever the dependence between the tests.

If earlier outcomes decide which hypotheses are tested, the :math:`B_i` are random. The proof then
holds if each test keeps its level given all earlier outcomes. The levels charged until the first
false success still add up to at most :math:`\delta` on every path.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fl_market.errors import MarketError

Chain = tuple[str, ...]
"""The tests that pass their levels on to each other: the names of a buyer and a seller."""


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


@dataclass(frozen=True)
class ErrorBudget:
    """The error of a run, and the levels that its chains carry.

    Attributes
    ----------
    error
        Highest probability of any false success in the run, in (0, 1).
    carried
        Chain -> level of its last test, if that test succeeded.

    Raises
    ------
    MarketError
        If the error is out of range.

    Examples
    --------
    Two tests in each round; that of A and B succeeds in round 1, and its level is passed on:

    >>> budget = ErrorBudget(0.05)
    >>> level = budget.level(1, 2, ("A", "B"))
    >>> level
    0.0125
    >>> budget = budget.after({("A", "B"): (level, True), ("B", "A"): (level, False)})
    >>> round(budget.level(2, 2, ("A", "B")), 6), round(budget.level(2, 2, ("B", "A")), 6)
    (0.014583, 0.002083)
    """

    error: float = 0.05
    carried: Mapping[Chain, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.error < 1:
            raise MarketError(f"error must be in (0, 1); got {self.error}")

    def level(self, number: int, tests: int, chain: Chain) -> float:
        """Return the level of a chain's test in a round.

        Parameters
        ----------
        number
            Number of the round, from 1.
        tests
            Number of tests that can take place in the round, whatever their outcomes; it divides
            the round's share equally. Each chain has one at most.
        chain
            The chain of the test.

        Raises
        ------
        MarketError
            If a number is less than 1.
        """
        if tests < 1:
            raise MarketError(f"tests must be at least 1; got {tests}")
        return self.error * round_share(number) / tests + self.carried.get(chain, 0.0)

    def after(self, results: Mapping[Chain, tuple[float, bool]]) -> "ErrorBudget":
        """Return the budget after the tests of a round.

        Parameters
        ----------
        results
            Chain -> level of its test, and whether the test succeeded. A success passes the level
            on; a failure loses it. Chains without a test keep what they carry.
        """
        kept = {chain: level for chain, level in self.carried.items() if chain not in results}
        passed = {chain: level for chain, (level, succeeded) in results.items() if succeeded}
        return replace(self, carried=kept | passed)
