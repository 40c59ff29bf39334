"""Cells of an experiment: single runs in several processes, kept on disk and computed once."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fl_market.configuration import Configuration
from fl_market.reports.results import UnfinishedRunError
from fl_market.run_folder import prepare_folder, write_json
from fl_market.runner.orphans import end_with

CELLS = "cells"
_OF_ONE_MACHINE = ("out-dir", "data-dir", "download", "executor", "timings", "metrics-port")
"""Options that do not change a result."""


def run_cells(
    cells: Sequence[Configuration],
    folder: Path,
    *,
    jobs: int = 0,
    report: Callable[[str], None] = lambda line: None,
    unfinished: bool = False,
) -> list[dict[str, Any]]:
    """Return the result of each run, as ``ArmResult.as_json`` has it.

    Parameters
    ----------
    cells
        Options of each run; ``strategy`` names the arm.
    folder
        Folder of the results. Results that it holds are not computed again, and finished ones
        survive an interruption.
    jobs
        Number of runs at the same time; 0 for one a processor, or 1 on an accelerator. Results do
        not depend on it.
    report
        Called with a line for each finished cell.
    unfinished
        Whether a run in which some agent finished no round is a result, rather than a failure. Its
        models may have diverged.

    Raises
    ------
    MarketError
        If a run fails; finished ones are kept.
    """
    kept = prepare_folder(folder / CELLS)
    missing = {_key(cell): cell for cell in cells if not (kept / f"{_key(cell)}.json").exists()}
    report(f"{len(missing)} of {len({_key(cell) for cell in cells})} cells to run")
    if missing:
        on_device = next(iter(missing.values())).hardware.device.type != "cpu"
        workers = jobs or (1 if on_device else os.cpu_count() or 1)
        # a fresh process for each worker: neither threads nor an accelerator survive a fork
        with ProcessPoolExecutor(workers, get_context("spawn"), end_with, (os.getpid(),)) as pool:
            run = run_cell_to_its_end if unfinished else run_cell
            running = {pool.submit(run, cell): (key, cell) for key, cell in missing.items()}
            _collect(running, kept, report)
    return [json.loads((kept / f"{_key(cell)}.json").read_text(encoding="utf-8"))["result"] for cell in cells]


def _collect(
    running: Mapping[Future[dict[str, Any]], tuple[str, Configuration]], kept: Path, report: Callable[[str], None]
) -> None:
    """Write each result at once; after a failure, finish the runs that have begun, then raise."""
    failure: BaseException | None = None
    for number, done in enumerate(as_completed(running), start=1):
        if done.cancelled():
            continue
        if done.exception() is not None:
            failure = failure or done.exception()
            for waiting in running:
                waiting.cancel()
            continue
        key, cell = running[done]
        write_json(kept / f"{key}.json", {"configuration": cell.to_mapping(), "result": done.result()})
        report(f"{number} of {len(running)}: {_line(cell, done.result())}")
    if failure is not None:
        raise failure


def run_cell(cell: Configuration) -> dict[str, Any]:
    """Run one cell in this process."""
    from fl_market.runner.environment import set_environment

    set_environment()
    from fl_market.runner.engines import run_inline

    return run_inline(cell).as_json()


def run_cell_to_its_end(cell: Configuration) -> dict[str, Any]:
    """Run one cell in this process; agents that finished no round have no test in its result."""
    try:
        return run_cell(cell)
    except UnfinishedRunError as error:
        return error.result.as_json()


def _key(cell: Configuration) -> str:
    options = {name: value for name, value in cell.to_mapping().items() if name not in _OF_ONE_MACHINE}
    options["sample"] = not cell.task.data_dir
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()
    return f"{cell.task.name.rpartition('/')[2]}-{cell.run.strategy}-{cell.run.seed}-{digest[:12]}"


def _line(cell: Configuration, result: dict[str, Any]) -> str:
    tested = [agent["test_accuracy"] for agent in result["agents"].values()]
    accuracies = " / ".join("—" if accuracy is None else f"{100 * accuracy:.2f}" for accuracy in tested)
    return f"{cell.task.name}, {cell.run.strategy}, seed {cell.run.seed}: {accuracies} % ({result['seconds']:.0f} s)"
