"""The project's own comparisons, by name: scenarios, labels, late."""

from collections.abc import Callable
from pathlib import Path

from fl_market.experiments.labels import compare_labels
from fl_market.experiments.late import compare_late
from fl_market.experiments.scenarios import compare_in_scenarios
from fl_market.experiments.tuning import Report, Study
from fl_market.run_folder import prepare_folder

STUDIES: dict[str, Callable[[Path, Study, Report], str]] = {
    "scenarios": compare_in_scenarios,
    "labels": compare_labels,
    "late": compare_late,
}
"""The comparisons by name."""


def run_study(name: str, out_dir: str, study: Study, report: Report = lambda line: None) -> str:
    """Run one of the comparisons, write ``NAME.json`` and ``NAME.png``, and return its table.

    Cells that an earlier run, finished or interrupted, left in the folder are not computed again.

    Raises
    ------
    MarketError
        If a part is unknown, or a run fails; finished cells are kept.
    """
    return STUDIES[name](prepare_folder(Path(out_dir)), study, report)
