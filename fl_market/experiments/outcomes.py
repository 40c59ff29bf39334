"""Numbers and texts that the experiments share: spreads over seeds, and rounds that were missed."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from fl_market.configuration import Configuration


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return mean and sample standard deviation; the latter is 0 for one value.

    Examples
    --------
    >>> spread([0.25, 0.75])["mean"], spread([0.5])["std"]
    (0.5, 0.0)
    """
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else 0.0}


def percent(cell: Mapping[str, float]) -> str:
    """Return a spread in percent.

    Examples
    --------
    >>> percent({"mean": 0.5, "std": 0.01})
    '50.00 ± 1.00'
    """
    return f"{100 * cell['mean']:.2f} ± {100 * cell['std']:.2f}"


def missed_rounds(results: Mapping[Configuration, Mapping[str, Any]]) -> str:
    """Return one line for each run in which an agent missed a round; usually an empty text.

    Agents with a simulated fault are left out.
    """
    lines = []
    for cell, result in results.items():
        joins, rounds = cell.joins, cell.run.num_server_rounds
        wanted = {name: rounds - joins[name] + 1 for name in cell.honest_agents if name in result["agents"]}
        # cells of earlier versions do not count rounds
        finished = {name: result["agents"][name].get("rounds_finished", count) for name, count in wanted.items()}
        missed = [f"{name} {count}/{wanted[name]}" for name, count in finished.items() if count < wanted[name]]
        if missed:
            lines.append(
                f"\nrounds finished, {cell.task.name}, {cell.run.strategy}, seed {cell.run.seed}: {', '.join(missed)}"
            )
    return "".join(lines)
