"""``fl-market experiment table1|table2|figure2``: the paper's tables and figure for networks.

Stricter than published: no decision uses the test set, there are several seeds with their spread,
and every arm has the same budget. Published numbers are printed beside the measured ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from fl_market.configuration import Configuration
from fl_market.errors import MarketError, OptionError
from fl_market.experiments.outcomes import missed_rounds, percent, spread
from fl_market.reports.curves import new_figure, save_figure
from fl_market.reports.table import summary_table
from fl_market.run_folder import prepare_folder, write_json
from fl_market.runner.cells import run_cells

SCALES = ("quick", "medium", "full")
SEEDS = (0, 1, 2)
ARMS = ("siloed", "fedavg-late", "fedavg", "market-unaligned", "market", "market-fine")
AGENTS = ("A", "B")

PUBLISHED_TERMS = {"certificate": "published", "selection": "greedy", "service": "none"}
"""The market as published: a gain over the buyer's model as it is, the least loss, no service."""
_WIDE = {"optimiser": "adam", "norm": "layer", "widen": 6, "learning_rate": 0.01, "num_server_rounds": 60}
_SMALL = {
    "norm": "layer",
    "precision": "bfloat16",
    "optimiser": "adam",
    "learning_rate": 0.003,
    "batch_size": 32,
    "fit_steps": 10,
    "fit_learning_rate": 0.3,
    "fit_batch_size": 128,
    "num_server_rounds": 12,
    "test_every": 12,
}
_LONGER = {"num_server_rounds": 20, "test_every": 20}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "mnist": {
        "quick": {"task": "mnist-mlp", "num_server_rounds": 20},
        "medium": {"task": "mnist-mlp", "num_server_rounds": 60},
        "full": {"task": "mnist-mlp", "num_server_rounds": 60},
    },
    "cifar10": {
        "quick": {"task": "cifar10-resnet20", "train_samples": 2000, "broker_samples": 1600, **_SMALL},
        "medium": {"task": "cifar10-resnet20", "train_samples": 10_000, "broker_samples": 2000, **_SMALL, **_LONGER},
        "full": {"task": "cifar10-resnet20", "batch_size": 512, "augment": True, **_WIDE},
    },
    "tinyimagenet": {
        "quick": {"task": "tinyimagenet-resnet20", "train_samples": 6000, "broker_samples": 2000, **_SMALL},
        "medium": {
            "task": "tinyimagenet-resnet20",
            "train_samples": 20_000,
            "broker_samples": 2000,
            **_SMALL,
            **_LONGER,
        },
        "full": {"task": "tinyimagenet-resnet20", "batch_size": 256, **_WIDE},
    },
}
"""Data set -> scale -> options that differ from the defaults; full is the published setup."""
DATA_SETS = {"quick": ("mnist", "cifar10"), "medium": ("cifar10",), "full": ("mnist", "cifar10", "tinyimagenet")}
"""The data sets of a scale, unless the user names others."""

PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "mnist": {
        "siloed": (68.50, 72.97),
        "fedavg-late": (81.98, 81.98),
        "market-unaligned": (84.64, 84.64),
        "market": (86.96, 86.96),
    },
    "cifar10": {
        "siloed": (71.14, 70.56),
        "fedavg-late": (70.35, 67.85),
        "market-unaligned": (78.31, 78.31),
        "market": (79.90, 79.90),
    },
    "tinyimagenet": {
        "siloed": (21.67, 15.89),
        "fedavg-late": (19.95, 19.33),
        "market-unaligned": (31.28, 31.30),
        "market": (31.69, 31.82),
    },
}
LAYERS = ("3,4", "2,3,4", "0,1,2", "0,1", "all")
BUDGETS = (0.25, 0.5, 0.75)
PUBLISHED_LAYERS = {
    "none": (71.29, 72.54),
    "3,4": (66.28, 71.98),
    "2,3,4": (70.73, 73.36),
    "0,1,2": (74.76, 74.16),
    "0,1": (78.86, 79.82),
    "all": (86.96, 86.96),
}


@dataclass(frozen=True)
class Plan:
    """An experiment as a user asked for it.

    Attributes
    ----------
    scale
        One of ``SCALES``.
    data_dir
        Folder of the data sets, in the layout that :mod:`fl_market.tasks` reads.
    seeds
        Each once.
    data_sets
        Of ``table1``; empty for those of the scale.
    jobs
        Number of processes; 0 for one a processor.
    device
        Device on which models are computed.
    options
        Options in place of the scale's, for tests.

    Raises
    ------
    MarketError
        If there is no seed, or a data set is unknown.
    """

    scale: str
    data_dir: str
    seeds: Sequence[int] = SEEDS
    data_sets: Sequence[str] = ()
    jobs: int = 0
    device: str = "auto"
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.seeds:
            raise MarketError("an experiment needs at least one seed")
        if unknown := [name for name in self.data_sets if name not in SETTINGS]:
            raise OptionError(f"unknown data set {unknown[0]!r}; known are {', '.join(SETTINGS)}")

    def cell(self, data_set: str, arm: str, seed: int, **options: Any) -> Configuration:
        """Return one run of the experiment."""
        settings = PUBLISHED_TERMS | SETTINGS[data_set][self.scale] | dict(self.options or {}) | options
        return Configuration.of(strategy=arm, seed=seed, data_dir=self.data_dir, device=self.device, **settings)


Report = Callable[[str], None]


def table1(folder: Path, plan: Plan, report: Report) -> str:
    """Compare the arms on each data set (section 6.1.1, table 1)."""
    names = tuple(plan.data_sets) or DATA_SETS[plan.scale]
    # the longest first: else one process ends long after the others
    cells = [plan.cell(name, arm, seed) for name in reversed(names) for arm in reversed(ARMS) for seed in plan.seeds]
    results = dict(zip(cells, run_cells(cells, folder, jobs=plan.jobs, report=report), strict=True))
    found = {
        name: {arm: _accuracies([results[plan.cell(name, arm, seed)] for seed in plan.seeds]) for arm in ARMS}
        for name in names
    }
    write_json(folder / "table1.json", {"scale": plan.scale, "seeds": list(plan.seeds), "cells": found})
    rows = []
    for name in SETTINGS:
        for arm in ARMS:
            ours = [percent(found[name][arm][agent]) if name in found else "not measured" for agent in AGENTS]
            gain = _above(found[name], arm) if name in found else ""
            rows.append((f"{name}, {arm}", *ours, gain, _published(PUBLISHED[name].get(arm))))
    header = ("data, arm", "A", "B", "above fedavg-late", "the paper, A / B")
    return summary_table(_title("Table 1", plan), header, rows) + missed_rounds(results)


def table2(folder: Path, plan: Plan, report: Report) -> str:
    """Trade some layers of the perceptron, or the best within a budget (section 6.1.2, table 2)."""
    options: dict[str, tuple[str, dict[str, Any]]] = {"none": ("siloed", {})}
    options |= {layers: ("market", {"layers": layers}) for layers in LAYERS}
    budgets = {f"best {budget:.0%}": ("market-fine", {"layer_budget": budget}) for budget in BUDGETS}
    by_row = {_by_row(layers): ("market-fine", {"layers": layers}) for layers in LAYERS}
    rows = {
        label: [plan.cell("mnist", arm, seed, **changed) for seed in plan.seeds]
        for label, (arm, changed) in (options | by_row | budgets).items()
    }
    cells = [cell for some in reversed(rows.values()) for cell in some]
    results = dict(zip(cells, run_cells(cells, folder, jobs=plan.jobs, report=report), strict=True))
    found = {label: _accuracies([results[cell] for cell in some]) for label, some in rows.items()}
    shares = {label: _gain(found, label, "none") / _gain(found, _by_row("all"), "none") for label in budgets}
    document = {
        "scale": plan.scale,
        "seeds": list(plan.seeds),
        "rows": {label: found[label] for label in options},
        "rows with a weight for each output row": {label: found[label] for label in by_row},
        "budgets": {label: found[label] for label in budgets},
        "share of the gain": shares,
    }
    write_json(folder / "table2.json", document)
    table = [
        (
            label,
            *(percent(found[label][agent]) for agent in AGENTS),
            f"{shares[label]:.0%}" if label in shares else "",
            _published(PUBLISHED_LAYERS.get(label)),
        )
        for label in rows
    ]
    header = ("layers traded", "A", "B", "share of the whole gain", "the paper, A / B")
    return summary_table(_title("Table 2", plan), header, table) + missed_rounds(results)


def figure2(folder: Path, plan: Plan, report: Report) -> str:
    """Compare how fast the arms' test losses fall (section 6.1.1, figure 2)."""
    cells = [plan.cell("mnist", arm, seed) for arm in reversed(ARMS) for seed in plan.seeds]
    results = dict(zip(cells, run_cells(cells, folder, jobs=plan.jobs, report=report), strict=True))
    curves = {arm: [_mean_curve(results[plan.cell("mnist", arm, seed)]) for seed in plan.seeds] for arm in ARMS}
    rounds = len(curves["siloed"][0])
    reached = {
        arm: [_first_below(curve, late[-1]) for curve, late in zip(some, curves["fedavg-late"], strict=True)]
        for arm, some in curves.items()
    }
    write_json(
        folder / "figure2.json",
        {
            "scale": plan.scale,
            "seeds": list(plan.seeds),
            "rounds": rounds,
            "test_loss": {arm: [list(values) for values in some] for arm, some in curves.items()},
            "rounds to fedavg-late's final loss": reached,
        },
    )
    _draw(folder / "figure2.png", curves)
    rows = [
        (
            arm,
            _spread([curve[-1] for curve in some]),
            ", ".join("never" if number is None else str(number) for number in reached[arm]),
        )
        for arm, some in curves.items()
    ]
    header = ("arm", "final test loss, mean of A and B", f"rounds of {rounds} to fedavg-late's final loss, by seed")
    return summary_table(_title("Figure 2, MNIST", plan, "test loss"), header, rows) + missed_rounds(results)


TABLES: dict[str, Callable[[Path, Plan, Report], str]] = {"table1": table1, "table2": table2, "figure2": figure2}
"""The experiments by name."""


def run_table(name: str, out_dir: str, plan: Plan, report: Report = lambda line: None) -> str:
    """Run one of the experiments, write its JSON, and return its table.

    Cells that an earlier run, finished or interrupted, left in the folder are not computed again.

    Raises
    ------
    MarketError
        If a run fails; finished cells are kept.
    """
    return TABLES[name](prepare_folder(Path(out_dir)), plan, report)


def _by_row(layers: str) -> str:
    return f"{layers}, α per row"


def _accuracies(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return mean and spread of each agent's final test accuracy."""
    found = {}
    for agent in AGENTS:
        values = [result["agents"][agent]["test_accuracy"] for result in results]
        found[agent] = spread(values)
    return found


def _mean_curve(result: Mapping[str, Any]) -> list[float]:
    curves = [[entry["test_loss"] for entry in agent["rounds"]] for agent in result["agents"].values()]
    return [mean(losses) for losses in zip(*curves, strict=True)]


def _first_below(curve: Sequence[float], target: float) -> int | None:
    return next((number for number, loss in enumerate(curve, start=1) if loss <= target), None)


def _gain(found: Mapping[str, Mapping[str, Mapping[str, float]]], label: str, base: str) -> float:
    return mean(found[label][agent]["mean"] - found[base][agent]["mean"] for agent in AGENTS)


def _above(found: Mapping[str, Mapping[str, Mapping[str, float]]], arm: str) -> str:
    return f"{100 * _gain(found, arm, 'fedavg-late'):+.2f}" if arm != "fedavg-late" else ""


def _spread(values: Sequence[float]) -> str:
    found = spread(values)
    return f"{found['mean']:.4f} ± {found['std']:.4f}"


def _published(pair: tuple[float, float] | None) -> str:
    return "" if pair is None else f"{pair[0]:.2f} / {pair[1]:.2f}"


def _title(name: str, plan: Plan, metric: str = "test accuracy (%)") -> str:
    seeds = ", ".join(map(str, plan.seeds))
    return f"{name}, {plan.scale} scale: {metric}, mean ± standard deviation over the seeds {seeds}"


def _draw(path: Path, curves: Mapping[str, Sequence[Sequence[float]]]) -> None:
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    for arm, some in curves.items():
        columns = list(zip(*some, strict=True))
        rounds = range(1, len(columns) + 1)
        (line,) = axes.plot(rounds, [mean(losses) for losses in columns], label=arm)
        axes.fill_between(
            rounds, [min(c) for c in columns], [max(c) for c in columns], color=line.get_color(), alpha=0.15
        )
    axes.set(xlabel="round", ylabel="test loss, mean of A and B", yscale="log")
    axes.legend()
    save_figure(figure, path)
