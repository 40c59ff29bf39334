"""The error budget of one round: which probability of error each certificate may spend."""

from collections.abc import Sequence

from fl_market.gains import ErrorBudget
from fl_market.market.terms import Terms
from fl_market.market.trials import Errors, Trial

GAIN, PROGRESS = "gain", "progress"
Chain = tuple[str, ...]


def chain_of(buyer: str, seller: str, place: int) -> Chain:
    """Return the chain of tests of a seller's purchases at one place of the buyer's bundle."""
    return buyer, seller, str(place)


class Spending:
    """The probabilities of error of one round's certificates.

    Parameters
    ----------
    budget
        The run's error budget before the round.
    market_round
        Number of the round.
    agents
        Agents of the round.
    terms
        Terms of the market.

    Notes
    -----
    A round has two tests, of gain and of progress, for each buyer, seller and place in a bundle.
    """

    def __init__(self, budget: ErrorBudget, market_round: int, agents: Sequence[str], terms: Terms) -> None:
        self._budget, self._round, self._terms = budget, market_round, terms
        pairs = len(agents) * (len(agents) - 1)
        self._spent: dict[Chain, float] = {}
        self._tests = max(1, 2 * pairs * min(terms.max_purchases, len(agents) - 1))

    def errors(self, chain: Chain) -> Errors:
        """Return the probabilities of error of one trial."""
        if self._terms.certificate != "run":
            return Errors(1 - self._terms.confidence, 1 - self._terms.confidence)
        return Errors(self._level((*chain, GAIN)), self._level((*chain, PROGRESS)))

    def record(self, chain: Chain, trial: Trial) -> None:
        """Record that the tests of a trial took place: whatever their chains carried is spent."""
        self._spent.update(_levels(chain, trial))

    @property
    def left(self) -> ErrorBudget:
        """The budget after the recorded trials; :func:`with_success` returns levels to it."""
        if self._terms.certificate != "run":
            return self._budget
        return self._budget.after({test: (level, False) for test, level in self._spent.items()})

    def _level(self, test: Chain) -> float:
        return self._budget.level(self._round, self._tests, test)


def with_success(budget: ErrorBudget, trial: Trial) -> ErrorBudget:
    """Return the budget after a paid purchase, which passes its levels on to the next of its chain.

    A certificate that leads to no payment passes nothing on. An agent could otherwise collect
    certificates that it never pays for, learn a little of the certify split from each, and sell all
    of it at the level that they passed on.
    """
    chain = chain_of(trial.buyer, trial.seller, len(trial.sellers))
    return budget.after({test: (level, True) for test, level in _levels(chain, trial).items()})


def _levels(chain: Chain, trial: Trial) -> dict[Chain, float]:
    """Return the tests of a trial that took place, each with its level."""
    if trial.errors is None:
        return {}
    levels = {(*chain, GAIN): trial.errors.gain}
    return levels if trial.progress is None else levels | {(*chain, PROGRESS): trial.errors.progress}
