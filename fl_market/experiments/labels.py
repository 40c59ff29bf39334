"""``fl-market experiment labels``: accuracy by the number of the broker's labels.

The more of the broker's data is in the fit split, the better are arms that train on it. The curve
shows where trade, and where labels, do the work. The certify split has all other samples.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl_market.experiments.outcomes import percent
from fl_market.experiments.scenarios import SETTINGS as SCENARIO_SETTINGS
from fl_market.experiments.tuning import PUBLISHED, TUNED, Report, Row, Study, measure, missed
from fl_market.reports.curves import new_figure, save_figure
from fl_market.reports.table import summary_table
from fl_market.run_folder import write_json

ARMS = ("broker-only", "siloed-tuned", "fedavg-tuned", "market", "market-fine")
FIT_SAMPLES = (50, 100, 250, 500, 1000, 2500)
# the paper's halves, and the broker's 5 000 samples at both scales
SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {**SCENARIO_SETTINGS["quick"], "broker_samples": 5000},
    "full": {**SCENARIO_SETTINGS["full"], "num_server_rounds": 60, "test_every": 60},
}
"""Scale -> options that differ from the defaults."""


def compare_labels(folder: Path, study: Study, report: Report) -> str:
    """Run the arms for each number of fit samples; write the numbers and a picture."""
    settings = study.settings(SETTINGS[study.scale])
    sizes = [int(size) for size in study.parts([str(size) for size in FIT_SAMPLES])]
    rows = {(arm, size): Row(arm, {**settings, "fit_samples": size}) for size in sizes for arm in ARMS}
    found = measure(rows, study, folder, report)
    cells = {arm: {size: found[arm, size].as_json() for size in sizes} for arm in ARMS}
    document = {"scale": study.scale, "seeds": list(study.seeds), "settings": settings, "fit samples": cells}
    write_json(folder / "labels.json", document)
    _draw(folder / "labels.png", cells)
    best = {size: max(ARMS, key=lambda arm: cells[arm][size][TUNED]["mean"]) for size in sizes}
    table = [
        (
            arm,
            kind,
            *(
                percent(cells[arm][size][kind]) + (" *" if kind == TUNED and best[size] == arm else "  ")
                for size in sizes
            ),
        )
        for arm in ARMS
        for kind in (PUBLISHED, TUNED)
    ]
    title = (
        f"The broker's labels, {study.scale} scale: test accuracy (%) by the number of fit samples, mean ± standard "
        f"deviation over the seeds {', '.join(map(str, study.seeds))}; * is the best"
    )
    header = ("arm", "learning rates", *(f"{size}  " for size in sizes))
    return summary_table(title, header, table, left=2) + missed(found)


def _draw(path: Path, cells: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> None:
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    for arm, some in cells.items():
        values = [cell[TUNED] for cell in some.values()]
        axes.errorbar(
            list(some),
            [100 * value["mean"] for value in values],
            yerr=[100 * value["std"] for value in values],
            marker="o",
            capsize=2,
            label=arm,
        )
    axes.set(xlabel="fit samples of the broker", ylabel="test accuracy (%), tuned", xscale="log")
    axes.minorticks_off()
    axes.set_xticks(list(next(iter(cells.values()))), minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend()
    save_figure(figure, path)
