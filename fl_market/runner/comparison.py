"""Run several arms on the same data, seeds, local steps and rounds."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fl_market.configuration import Configuration
from fl_market.plugins import label
from fl_market.reports import ArmResult, UnfinishedRunError
from fl_market.reports.curves import PICTURE, draw_learning_curves
from fl_market.reports.summary import summarise
from fl_market.run_folder import SUMMARY, clear_folder, write_json, write_results
from fl_market.runner.agents import check_agents
from fl_market.runner.engines import Engine
from fl_market.runner.estimate import Estimate, estimate
from fl_market.tasks.task import BROKER
from strategies.arms import arm_named, check_split
from strategies.history import Observer


def compare(
    configuration: Configuration,
    arms: Sequence[str],
    engine: Engine,
    *,
    overwrite: bool = False,
    observer: Observer | None = None,
    announce: Callable[[Estimate], None] | None = None,
) -> dict[str, ArmResult]:
    """Run the arms in turn, and write ``results.json``, the ledgers and the learning curves.

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
    announce
        Called before the first round with the time that all will take; measuring it takes a while.

    Raises
    ------
    MarketError
        If an arm is unknown, the data of an agent cannot be used, the folder holds a run, or an arm
        fails.
    UnfinishedRunError
        If some agent finished no round of some arm; the files are written all the same.
    """
    check_arms(arms)
    check_agents(configuration)  # before anything is removed or started
    _check_splits(configuration, arms)
    clear_folder(Path(configuration.run.out_dir), overwrite)
    if announce is not None:
        announce(estimate(configuration, arms))
    return _run(configuration, arms, engine, observer)


def resume(configuration: Configuration, engine: Engine, *, observer: Observer | None = None) -> dict[str, ArmResult]:
    """Continue a run after its last checkpoint, and write the same files as :func:`compare`.

    Parameters
    ----------
    configuration
        Options that the run was started with; its ``resume`` is its folder.
    engine
        One of ``ENGINES``.
    observer
        Called after each round.

    Raises
    ------
    MarketError
        If there is no checkpoint, or the run fails again.
    """
    return _run(configuration, (configuration.run.strategy,), engine, observer)


def compare_seeds(
    configuration: Configuration,
    arms: Sequence[str],
    seeds: Sequence[int],
    engine: Engine,
    *,
    overwrite: bool = False,
    observer: Observer | None = None,
    announce: Callable[[Estimate], None] | None = None,
) -> dict[int, dict[str, ArmResult]]:
    """Repeat a comparison for each seed in its own folder.

    ``summary.json`` has means and standard deviations over the seeds.
    """
    check_arms(arms)
    check_agents(configuration.with_options(seed=seeds[0]))  # each comparison checks its own seed again
    _check_splits(configuration.with_options(seed=seeds[0]), arms)
    folder = Path(configuration.run.out_dir)
    clear_folder(folder, overwrite)
    if announce is not None:
        announce(estimate(configuration.with_options(seed=seeds[0]), arms, len(dict.fromkeys(seeds))))
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
    """Raise MarketError if an arm is unknown."""
    for arm in arms:
        arm_named(arm)


def _check_splits(configuration: Configuration, arms: Sequence[str]) -> None:
    """Raise MarketError if an arm certifies gains on too few samples."""
    for arm in arms:
        check_split(arm_named(arm), configuration, configuration.load_task(BROKER))


def _run(
    configuration: Configuration, arms: Sequence[str], engine: Engine, observer: Observer | None
) -> dict[str, ArmResult]:
    """Run arms and write the files; an agent that finished no round fails the run only then."""
    results: dict[str, ArmResult] = {}
    unfinished: UnfinishedRunError | None = None
    for arm in dict.fromkeys(arms):
        try:
            results[label(arm)] = engine(configuration.with_options(strategy=arm), observer)
        except UnfinishedRunError as error:
            results[label(arm)] = error.result
            unfinished = unfinished or error
    write_results(configuration, results)
    draw_learning_curves(results, Path(configuration.run.out_dir) / PICTURE)
    if unfinished is not None:
        raise unfinished
    return results
