"""The error budget of a round: what each certificate may spend, and what its offers tell."""

from collections.abc import Iterable

from fl_market.gains import Counted, ErrorBudget, near_weight, told, value_weight
from fl_market.market.terms import Terms
from fl_market.market.trials import Trial


def possible_purchases(agents: int, terms: Terms) -> int:
    """Return the highest number of purchases that a round among some agents can try.

    A bundle tries each seller once at its first place, and each but those before it once more.
    """
    sellers = max(0, agents - 1)
    if 0 < terms.candidates < sellers:
        # a disclosed quote needs the purchase in the other direction, too
        sellers = min(sellers, terms.candidates * (1 if terms.disclosure == "sealed" else 2))
    return agents * sellers * max(1, min(terms.max_purchases, sellers))


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
    budget: ErrorBudget, agents: int, offers: Iterable[tuple[Trial, float]], others: Counted, terms: Terms
) -> ErrorBudget:
    """Return the error budget after agents were told of a round.

    Parameters
    ----------
    budget
        The budget before the round.
    agents
        Number of agents in the round.
    offers
        The trials that are offered or could have been, each with its told gain; 0 without a price.
    others
        Other decisions by the certify split that agents could see, and those that were positive: a
        best model is given back, or an offer is held back because of it.
    terms
        Terms of the market; ``disclosure`` tells sellers an error ratio, too.
    """
    if terms.certificate != "run":
        return budget
    weight, foreseen, priced = 1.0, Counted(), 0
    for trial, gain in offers:
        expected = trial.foreseen is not None and trial.foreseen.positive
        foreseen += Counted(int(expected), int(expected and trial.priced))
        if trial.priced:
            priced += 1
            weight *= _told_weight(trial, gain, terms)
    possible = max(possible_purchases(agents, terms), priced) - foreseen.possible
    return budget.after(foreseen, others + Counted(possible, priced - foreseen.priced), weight)


def _told_weight(trial: Trial, gain: float, terms: Terms) -> float:
    """Return the probability of the numbers that are told of a priced purchase."""
    expected = told(trial.foreseen.gain) if trial.foreseen is not None else 0.0
    # a bound above 0 has a mean above 0, but the told gain of a tiny one may be 0
    weight = 1.0 if gain <= 0 else near_weight(gain, expected) if expected > 0 else value_weight(gain)
    ratio = told(trial.certificate.ratio - 1) if terms.disclosure != "sealed" else 0.0
    return weight * (value_weight(ratio) if ratio > 0 else 1.0)
