"""``fl-market bench chaos --simulated``: thousands of markets with crashes, in one process each.

The markets are played in the order of their seeds until they have had a number of exchanges. A
failure is reported with its seed, which plays the same market again.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from fl_market.reports.table import summary_table
from fl_market.run_folder import claim_file, write_json
from fl_market.runner.orphans import end_with

if TYPE_CHECKING:
    from fl_market.benchmarks.faults import Play

BATCH = 10
"""Markets that a process plays at a time."""
Report = Callable[[str], None]


def simulated_chaos(
    out_dir: str,
    *,
    exchanges: int = 20_000,
    seed: int = 0,
    jobs: int = 0,
    overwrite: bool = False,
    report: Report = print,
) -> str:
    """Play markets until they have had a number of exchanges; write the report, return a table.

    Parameters
    ----------
    out_dir
        Folder of ``chaos-simulated.json``.
    exchanges
        Number of agreed purchases, whether paid or refunded.
    seed
        Seed of the first market; the next ones follow.
    jobs
        Number of processes; 0 for one a processor.
    overwrite
        Whether an earlier report may be overwritten.
    report
        Called with a line for each failure, and now and then for progress.
    """
    folder = claim_file(Path(out_dir), "chaos-simulated.json", overwrite)
    started, plays, problems = time.monotonic(), list["Play"](), dict[int, tuple[str, ...]]()
    had = 0
    for batch in _played(seed, jobs or os.cpu_count() or 1):
        for one in batch:
            plays.append(one)
            had += one.settled + one.ended
            if one.problems:
                problems[one.seed] = one.problems
                report(f"seed {one.seed}: {'; '.join(one.problems)}")
        report(f"{time.monotonic() - started:6.0f} s: {had} exchanges in {len(plays)} markets")
        if had >= exchanges:
            break
    document = {
        "first seed": seed,
        "markets": len(plays),
        "exchanges": had,
        "settled": sum(one.settled for one in plays),
        "crashes": sum(one.crashes for one in plays),
        "seconds": time.monotonic() - started,
        "problems": {str(number): list(some) for number, some in problems.items()},
    }
    write_json(folder / "chaos-simulated.json", document)
    rows = [(name, f"{document[name]}") for name in ("markets", "exchanges", "settled", "crashes")]
    failures = [f"seed {number}: {sentence}" for number, some in problems.items() for sentence in some]
    rows += [("failed checks", "\n".join(failures) or "none")]
    return summary_table(f"{had} exchanges with crashes in {document['seconds']:.0f} s", ("", ""), rows)


def _played(seed: int, jobs: int) -> Iterator[list["Play"]]:
    """Yield the markets of each batch of seeds, in their order."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), end_with, (os.getpid(),)) as pool:
        starts = count(seed, BATCH)
        waiting = [pool.submit(_batch, next(starts), BATCH) for _ in range(2 * jobs)]
        try:
            while True:
                yield waiting.pop(0).result()
                waiting.append(pool.submit(_batch, next(starts), BATCH))
        finally:
            for one in waiting:
                one.cancel()


def _batch(seed: int, size: int) -> list["Play"]:
    from fl_market.runner.environment import set_environment

    set_environment()
    from fl_market.benchmarks.faults import play

    return [play(number) for number in range(seed, seed + size)]
