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
        self._results: dict[Chain, tuple[float, bool]] = {}
        self._tests = max(1, 2 * pairs * min(terms.max_purchases, len(agents) - 1))

    def errors(self, chain: Chain) -> Errors:
        """Return the probabilities of error of one trial."""
        if self._terms.certificate != "run":
            return Errors(1 - self._terms.confidence, 1 - self._terms.confidence)
        return Errors(self._level((*chain, GAIN)), self._level((*chain, PROGRESS)))

    def record(self, chain: Chain, trial: Trial) -> None:
        """Record the results of a trial's tests."""
        for kind, certificate in ((GAIN, trial.certificate), (PROGRESS, trial.progress)):
            if certificate is not None:
                test = (*chain, kind)
                self._results[test] = self._level(test), certificate.lower_bound > 0

    @property
    def left(self) -> ErrorBudget:
        """The budget after the recorded trials."""
        return self._budget.after(self._results) if self._terms.certificate == "run" else self._budget

    def _level(self, test: Chain) -> float:
        return self._budget.level(self._round, self._tests, test)
