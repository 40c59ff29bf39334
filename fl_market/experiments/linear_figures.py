"""``fl-market experiment figure3|figure4|figure5|theorem51``: the paper's linear experiments."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from fl_market.errors import MarketError
from fl_market.linear import AGENTS, LinearMarket
from fl_market.linear.convergence import SmoothProblem
from fl_market.linear.prices import price_history
from fl_market.reports.curves import new_figure, save_figure
from fl_market.reports.table import summary_table
from fl_market.run_folder import claim_file, write_json

PUBLISHED_IMPROVEMENT = {"A": 42.84, "B": 23.88}
DISTANCES = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0)
"""Two independent draws of the true parameters are about 45 apart."""
LAST = 50
"""Number of last rounds over which the gap of prices is averaged."""
ESTIMATES = ("paper", "sharp", "learned")


def figure3(folder: Path, seeds: Sequence[int], market: LinearMarket) -> str:
    """Draw trades, error ratio and learning curves, compared with siloed agents (section 6.1.3)."""
    started = perf_counter()
    runs = [market.run(seed) for seed in seeds]
    seconds = (perf_counter() - started) / len(runs)
    improvement = {name: _spread([float(run.improvement[index]) for run in runs]) for index, name in enumerate(AGENTS)}
    purchases = {
        name: _spread([sum(offers[index].bought for offers in run.purchases) for run in runs])
        for index, name in enumerate(AGENTS)
    }
    document = {"seeds": list(seeds), "improvement": improvement, "purchases": purchases, "seconds": seconds}
    write_json(folder / "figure3.json", document)

    def draw(axes: Sequence[Axes]) -> None:
        log, ratio, *curves = axes
        rounds = np.arange(1, market.rounds + 1)
        for index, name in enumerate(AGENTS):
            bought = np.array([offers[index].bought for offers in runs[0].purchases])
            log.scatter(rounds, np.full(market.rounds, index), c=np.where(bought, "tab:green", "tab:red"), s=8)
            for label, losses in (
                ("market", [run.market_loss[:, index] for run in runs]),
                ("siloed", [run.siloed_loss[:, index] for run in runs]),
            ):
                mean, std = np.mean(losses, axis=0), np.std(losses, axis=0)
                curves[index].plot(rounds, mean, label=label)
                curves[index].fill_between(rounds, mean - std, mean + std, alpha=0.2)
            curves[index].set(title=f"agent {name}", xlabel="round", ylabel="test loss")
            curves[index].legend()
        log.set(title=f"purchases, seed {seeds[0]}", xlabel="round", yticks=[0, 1], yticklabels=AGENTS)
        ratio.plot(rounds, np.mean([run.error_ratio for run in runs], axis=0))
        ratio.axhline(1, color="tab:red", linestyle="--")
        ratio.set(title="error of A / error of B, squared", xlabel="round")

    _picture(folder / "figure3.png", 4, draw)
    rows = [
        (name, _text(improvement[name]), f"{PUBLISHED_IMPROVEMENT[name]}", _text(purchases[name])) for name in AGENTS
    ]
    title = f"Test loss against siloed, {len(seeds)} seeds, {seconds:.1f} seconds each"
    return summary_table(title, ("agent", "improvement (%)", "the paper", "purchases"), rows)


def figure4(folder: Path, seeds: Sequence[int], market: LinearMarket) -> str:
    """Measure agent A's improvement by the distance between the two tasks (section 6.1.4)."""
    spreads = [
        _spread([float(replace(market, distance=distance).run(seed).improvement[0]) for seed in seeds])
        for distance in DISTANCES
    ]
    means, stds = ([spread[key] for spread in spreads] for key in ("mean", "std"))
    document = {"seeds": list(seeds), "distance": list(DISTANCES), "improvement": means, "std": stds}
    write_json(folder / "figure4.json", document)

    def draw(axes: Sequence[Axes]) -> None:
        axes[0].errorbar(DISTANCES, means, yerr=stds, marker="o", capsize=3)
        axes[0].axhline(0, color="tab:red", linestyle="--")
        axes[0].set(xlabel="‖θ_a* − θ_b*‖", ylabel="improvement of A's test loss (%)")

    _picture(folder / "figure4.png", 1, draw)
    rows = [(f"{distance:g}", _text(spread)) for distance, spread in zip(DISTANCES, spreads, strict=True)]
    return summary_table(
        f"Agent A's test loss against siloed, {len(seeds)} seeds", ("distance between tasks", "improvement (%)"), rows
    )


def figure5(folder: Path, seeds: Sequence[int], market: LinearMarket) -> str:
    """Compare prices under each seller's estimate with the truthful optimum (section 6.2)."""
    runs = [market.run(seed) for seed in seeds]
    histories = {
        kind: np.array([[price_history(run, buyer, kind) for buyer in range(2)] for run in runs])
        for kind in ("optimum", *ESTIMATES)
    }
    gaps = {kind: np.abs(histories[kind] - histories["optimum"])[:, :, -LAST:].mean((1, 2)) for kind in ESTIMATES}
    gap = {kind: float(values.mean()) for kind, values in gaps.items()}
    spread = {kind: float(values.std(ddof=1)) if len(seeds) > 1 else 0.0 for kind, values in gaps.items()}
    write_json(folder / "figure5.json", {"seeds": list(seeds), "gap": gap, "std": spread})

    def draw(axes: Sequence[Axes]) -> None:
        for buyer, panel in enumerate(axes):
            for kind, prices in histories.items():
                panel.plot(np.arange(1, market.rounds + 1), prices[:, buyer].mean(0), label=kind)
            panel.set(title=f"price for agent {AGENTS[buyer]}", xlabel="round", ylabel="price (error ratio)")
            panel.legend()

    _picture(folder / "figure5.png", 2, draw)
    rows = [
        (kind, f"{gap[kind]:.5f} ± {spread[kind]:.5f}", f"{100 * gap[kind] / gap['paper']:.2f}") for kind in ESTIMATES
    ]
    title = f"Mean gap to the truthful price, last {LAST} rounds, {len(seeds)} seeds"
    return summary_table(title, ("sellers' estimate", "gap", "% of the paper's"), rows)


def theorem51(folder: Path, seeds: Sequence[int], problem: SmoothProblem) -> str:
    """Compare the rounds to a gradient norm, with and without trade, with bounds (section 5)."""
    runs = [problem.run(seed) for seed in seeds]
    columns = ("traded", "traded_bound", "siloed", "siloed_bound", "least_gain")
    means = {name: np.mean([getattr(run, name) for run in runs], axis=0).tolist() for name in columns}
    stds = {name: np.std([getattr(run, name) for run in runs], axis=0).tolist() for name in columns}
    write_json(
        folder / "theorem51.json",
        {"seeds": list(seeds), "accuracy": list(problem.accuracies), "mean": means, "std": stds},
    )

    def draw(axes: Sequence[Axes]) -> None:
        for name, style in zip(columns[:4], ("C0-o", "C0--", "C1-o", "C1--"), strict=True):
            axes[0].plot(problem.accuracies, means[name], style, label=name.replace("_", ", "))
        axes[0].set(xlabel="gradient norm, as a share of the first", ylabel="rounds", xscale="log", yscale="log")
        axes[0].legend()

    _picture(folder / "theorem51.png", 1, draw)
    rows = [
        (f"{accuracy:g}", *(f"{means[name][index]:.3g}" for name in columns))
        for index, accuracy in enumerate(problem.accuracies)
    ]
    header = ("gradient norm / first", "rounds, trading", "bound", "rounds, siloed", "bound", "least gain")
    return summary_table(f"Rounds to convergence, mean of {len(seeds)} seeds", header, rows)


EXPERIMENTS: dict[str, tuple[Callable[[Path, Sequence[int], Any], str], Callable[[], Any]]] = {
    "figure3": (figure3, LinearMarket),
    "figure4": (figure4, LinearMarket),
    "figure5": (figure5, LinearMarket),
    "theorem51": (theorem51, SmoothProblem),
}
"""Name -> the experiment, and a function that makes its published setup."""


def run_experiment(
    name: str, out_dir: str, seeds: Sequence[int], *, overwrite: bool = False, setting: Any = None
) -> str:
    """Run one of the experiments, write its JSON and its picture, and return its table.

    Raises
    ------
    MarketError
        If there is no seed, or the folder already holds this experiment.
    """
    if not seeds:
        raise MarketError("an experiment needs at least one seed")
    experiment, published = EXPERIMENTS[name]
    folder = claim_file(Path(out_dir), f"{name}.json", overwrite)
    return experiment(folder, seeds, published() if setting is None else setting)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def _text(spread: dict[str, float]) -> str:
    return f"{spread['mean']:.2f} ± {spread['std']:.2f}"


def _picture(path: Path, panels: int, draw: Callable[[Sequence[Axes]], None]) -> None:
    figure = new_figure(4.5 * panels, 3.8)
    draw(figure.subplots(1, panels, squeeze=False)[0])
    save_figure(figure, path)
