"""The error budget of a round: what each certificate may spend, and what its offers tell."""

from collections.abc import Iterable

from fl_market.gains import ErrorBudget, told
from fl_market.market.terms import Terms
from fl_market.market.trials import Trial


def possible_purchases(agents: int, terms: Terms) -> int:
    """Return the highest number of purchases that a round among some agents can try.

    A bundle tries each seller once at its first place, and each but those before it once more.
    """
    return agents * (agents - 1) * max(1, min(terms.max_purchases, agents - 1))


def error_of_tests(budget: ErrorBudget, market_round: int, agents: int, terms: Terms) -> float:
    """Return the probability of error of each certificate of a round.

    Each purchase has two certificates, of its gain and of its progress.

    Parameters
    ----------
    budget
        The run's error budget before the round.
    market_round
        Number of the round.
    agents
        Number of agents in the round.
    terms
        Terms of the market.
    """
    if terms.certificate != "run":
        return 1 - terms.confidence
    return budget.level(market_round, max(1, 2 * possible_purchases(agents, terms)))


def after_offers(
    budget: ErrorBudget, agents: int, priced: Iterable[tuple[Trial, float]], others: tuple[int, int], terms: Terms
) -> ErrorBudget:
    """Return the error budget after agents were told of a round.

    Parameters
    ----------
    budget
        The budget before the round.
    agents
        Number of agents in the round.
    priced
        The trials of the priced offers, each with its told gain.
    others
        Number of other decisions by the certify split that agents could see, and of those that were
        positive: a best model is given back, or an offer is held back because of it.
    terms
        Terms of the market; ``disclosure`` tells sellers an error ratio, too.
    """
    if terms.certificate != "run":
        return budget
    gains, ratios = [], []
    for trial, gain in priced:
        gains.append(gain)
        if terms.disclosure != "sealed":
            ratios.append(told(trial.certificate.ratio - 1))
    return budget.after(
        possible_purchases(agents, terms) + others[0], gains, [ratio for ratio in ratios if ratio > 0], others[1]
    )
