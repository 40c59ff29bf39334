"""Means and spreads over seeds."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np

from fl_market.reports.results import ArmResult

MANY = 8
"""Agents from which on tables and pictures show the spread over them, and no agent by itself."""
SPREAD = ("mean", "worst", "25 %", "median", "75 %", "best")


def spread(values: Sequence[float]) -> tuple[float, ...]:
    """Return mean, least value, lower quartile, median, upper quartile and greatest value.

    Examples
    --------
    >>> spread([1.0, 2.0, 3.0, 4.0, 10.0])
    (4.0, 1.0, 2.0, 3.0, 4.0, 10.0)
    """
    least, *quartiles, greatest = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return (mean(values), least, *quartiles, greatest)


def summarise(by_seed: Mapping[int, Mapping[str, ArmResult]]) -> dict[str, dict[str, Any]]:
    """Return the summary of each arm over the seeds.

    It holds the mean and the sample standard deviation of each agent's final test accuracy, the
    mean numbers of deals and evaluated offers, and, as sums over the seeds, the rounds, those that
    each agent finished, and its failed replies.

    Parameters
    ----------
    by_seed
        Seed -> arm -> result; the same arms for each seed.
    """
    arms = next(iter(by_seed.values()))
    return {arm: _summary([results[arm] for results in by_seed.values()]) for arm in arms}


def start(result: ArmResult) -> str:
    """Return the initialisation of an arm's agents, and their first round of exchange."""
    exchanging = f", from round {result.trading_from}" if result.trading_from else ""
    return f"{result.initialisation}{exchanging}"


def has_own_targets(result: ArmResult) -> bool:
    """Return whether some agent has a target distribution of its own."""
    last = [agent.rounds[-1] for agent in result.agents.values() if agent.rounds]
    return any(entry.target_accuracy != entry.test_accuracy for entry in last)


def _summary(results: list[ArmResult]) -> dict[str, Any]:
    summary = {
        "starts": start(results[0]),
        "agents": _over_seeds(results, "test_accuracy"),
        "spread": _spreads(results, "test_accuracy"),
        "deals": mean(result.deals for result in results),
        "offers": mean(result.offers for result in results),
        "rounds": sum(result.rounds for result in results),
        "rounds_finished": _sums(results, "rounds_finished"),
        "failed_replies": _sums(results, "failed_replies"),
    }
    if any(map(has_own_targets, results)):
        summary["targets"] = _over_seeds(results, "target_accuracy")
        summary["spread_of_targets"] = _spreads(results, "target_accuracy")
    return summary


def _over_seeds(results: list[ArmResult], metric: str) -> dict[str, dict[str, float]]:
    return {
        name: _mean_and_spread([getattr(result.agents[name].rounds[-1], metric) for result in results])
        for name in results[0].agents
    }


def _spreads(results: list[ArmResult], metric: str) -> dict[str, dict[str, float]]:
    """Return mean and deviation over the seeds of each number of the spread over the agents."""
    found = [spread([getattr(agent.rounds[-1], metric) for agent in result.agents.values()]) for result in results]
    return {name: _mean_and_spread(list(values)) for name, values in zip(SPREAD, zip(*found, strict=True), strict=True)}


def _sums(results: list[ArmResult], count: str) -> dict[str, int]:
    return {name: sum(getattr(result.agents[name], count) for result in results) for name in results[0].agents}


def _mean_and_spread(values: list[float]) -> dict[str, float]:
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else 0.0}
