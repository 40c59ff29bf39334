"""Progress on standard error: a bar on a terminal, a few plain lines otherwise."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fl_market.reports.results import RoundReport


@contextmanager
def show_progress(total: int, *, quiet: bool = False) -> Iterator[Callable[[RoundReport], None]]:
    """Yield an observer that shows arm, round and deals on standard error.

    Parameters
    ----------
    total
        Rounds of all arms together.
    quiet
        Show nothing.
    """
    if quiet:
        yield lambda _: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _print_plainly
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=total)

        def show(report: RoundReport) -> None:
            progress.update(bar, description=_line(report), advance=1)

        yield show


def _print_plainly(report: RoundReport) -> None:
    """Print a line after every tenth of an arm's rounds, and after the last."""
    if report.round % max(1, report.rounds // 10) == 0 or report.round == report.rounds:
        sys.stderr.write(_line(report) + "\n")


def _line(report: RoundReport) -> str:
    progress = f"{report.arm}: round {report.round}/{report.rounds}, {report.deals} deals"
    return f"{progress}, accuracy {100 * report.accuracy:.1f} %"
