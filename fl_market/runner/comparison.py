"""Run several arms on the same data, seeds, local steps and rounds."""

from collections.abc import Sequence
from pathlib import Path

from fl_market.configuration import Configuration
from fl_market.plugins import label
from fl_market.reports import ArmResult
from fl_market.reports.curves import PICTURE, draw_learning_curves
from fl_market.reports.summary import summarise
from fl_market.run_folder import SUMMARY, clear_folder, write_json, write_results
from fl_market.runner.engines import Engine
from strategies.arms import arm_named
from strategies.history import Observer


def compare(
    configuration: Configuration,
    arms: Sequence[str],
    engine: Engine,
    *,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> dict[str, ArmResult]:
    """Run the arms one after the other, and write ``results.json``, the ledgers and the learning curves.

    Parameters
    ----------
    configuration
        Options that all arms share; its folder receives the files.
    arms
        Names, each once.
    engine
        One of ``ENGINES``.
    overwrite
        Whether an earlier run in the folder may be removed.
    observer
        Called after each round of each arm.

    Raises
    ------
    MarketError
        If an arm is unknown, the folder holds a run, or an arm fails.
    """
    check_arms(arms)
    configuration.load_task()  # before anything is removed or started
    folder = Path(configuration.run.out_dir)
    clear_folder(folder, overwrite)
    results = {label(arm): engine(configuration.with_options(strategy=arm), observer) for arm in dict.fromkeys(arms)}
    write_results(configuration, results)
    draw_learning_curves(results, folder / PICTURE)
    return results


def resume(configuration: Configuration, engine: Engine, *, observer: Observer | None = None) -> dict[str, ArmResult]:
    """Go on with a run after its last checkpoint, and write what :func:`compare` writes.

    Parameters
    ----------
    configuration
        What the run was started with; its ``resume`` is its folder.
    engine
        One of ``ENGINES``.
    observer
        Called after each round.

    Raises
    ------
    MarketError
        If there is no checkpoint, or the run fails again.
    """
    results = {label(configuration.run.strategy): engine(configuration, observer)}
    write_results(configuration, results)
    draw_learning_curves(results, Path(configuration.run.out_dir) / PICTURE)
    return results


def compare_seeds(
    configuration: Configuration,
    arms: Sequence[str],
    seeds: Sequence[int],
    engine: Engine,
    *,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> dict[int, dict[str, ArmResult]]:
    """Repeat a comparison for each seed in a folder of its own, and write ``summary.json``: means and spreads."""
    folder = Path(configuration.run.out_dir)
    clear_folder(folder, overwrite)
    by_seed = {
        seed: compare(
            configuration.with_options(seed=seed, out_dir=str(folder / f"seed-{seed}")),
            arms,
            engine,
            overwrite=overwrite,
            observer=observer,
        )
        for seed in dict.fromkeys(seeds)
    }
    write_json(folder / SUMMARY, {"seeds": list(by_seed), "arms": summarise(by_seed)})
    return by_seed


def check_arms(arms: Sequence[str]) -> None:
    """Raise MarketError where an arm is unknown."""
    for arm in arms:
        arm_named(arm)
