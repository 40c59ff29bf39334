"""Progress on standard error: a bar on a terminal, a few plain lines otherwise."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isnan
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fl_market.reports.results import RoundReport
from fl_market.watching import watched

SECONDS_BETWEEN_LINES = 20.0
"""Least time between two lines about trials."""
SECONDS_AS_SUCH, MINUTES_AS_SUCH = 90, 100
"""Longest time in each unit."""


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
        plain = _Plain()
        with watched(plain.trials):
            yield plain.round
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=total)
        inside = progress.add_task("trials of buyers", visible=False)

        def show(report: RoundReport) -> None:
            progress.update(bar, description=_line(report), advance=1)
            progress.reset(inside, visible=False)

        def show_trials(done: int, buyers: int) -> None:
            progress.update(inside, completed=done, total=buyers, visible=buyers > 1)

        with watched(show_trials):
            yield show


class _Plain:
    """Lines for a file or a pipe."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._begun = self._told = now()

    def round(self, report: RoundReport) -> None:
        """Print a line after every tenth of an arm's rounds, and after the last."""
        if report.round % max(1, report.rounds // 10) == 0 or report.round == report.rounds:
            sys.stderr.write(_line(report) + "\n")
        self._begun = self._told = self._now()

    def trials(self, done: int, buyers: int) -> None:
        """Print a line once in a while, if a round takes long."""
        now = self._now()
        if done == 1:
            self._begun = self._told = now
        elif now - self._told >= SECONDS_BETWEEN_LINES and done < buyers:
            self._told = now
            left = (now - self._begun) / (done - 1) * (buyers - done)
            sys.stderr.write(f"  trials of {done} of {buyers} buyers done, about {duration(left)} left\n")


def duration(seconds: float) -> str:
    """Return a length of time as text, in the unit that suits it.

    Examples
    --------
    >>> duration(50), duration(100), duration(5400), duration(90000)
    ('50 s', '2 minutes', '90 minutes', '25 hours')
    """
    if seconds < SECONDS_AS_SUCH:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes <= MINUTES_AS_SUCH else f"{round(seconds / 3600)} hours"


def _line(report: RoundReport) -> str:
    progress = f"{report.arm}: round {report.round}/{report.rounds}, {report.deals} deals"
    # without a test in the round, there is none
    return progress if isnan(report.accuracy) else f"{progress}, accuracy {100 * report.accuracy:.1f} %"
