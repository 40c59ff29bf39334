"""``fl-market experiment late``: agents that meet after a long time apart.

Their models are far from each other by then. The first purchase is tested at once; then trade goes
on, or the agents train alone again ("one purchase").
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from fl_market.configuration import Configuration
from fl_market.experiments.network_tables import PUBLISHED_TERMS
from fl_market.experiments.network_tables import SETTINGS as TABLE_SETTINGS
from fl_market.experiments.outcomes import percent, spread
from fl_market.experiments.tuning import (
    PUBLISHED,
    TUNED,
    Measured,
    Rates,
    Report,
    Result,
    Row,
    Study,
    accuracy_in,
    measure,
    missed,
)
from fl_market.reports.curves import new_figure, save_figure
from fl_market.reports.table import summary_table
from fl_market.run_folder import write_json

ARMS = ("siloed", "fedavg-late", "fedavg-matched", "market-unaligned", "market", "market-fine")
FIRST, END, ONCE = "after the first purchase", "at the end", "at the end, one purchase"
MOMENTS = (FIRST, END, ONCE)

_QUICK = {
    "train_samples": 4000,
    "broker_samples": 1000,
    "batch_size": 32,
    "num_server_rounds": 20,
    "first_round": 10,
    "test_every": 5,
    "fit_steps": 20,
    "fit_learning_rate": 0.2,
    "fit_batch_size": 100,
}
_FULL = {"num_server_rounds": 60, "first_round": 30, "test_every": 10}
_RESNET = TABLE_SETTINGS["cifar10"]["quick"]
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {
        "perceptron": {"task": "mnist-mlp", **_QUICK},
        "wide-perceptron": {"task": "mnist-mlp", "widen": 4, **_QUICK},
    },
    "full": {
        "perceptron": {"task": "mnist-mlp", **_FULL},
        "wide-perceptron": {"task": "mnist-mlp", "widen": 4, **_FULL},
        "resnet": {**_RESNET, **_FULL},
    },
}
"""Scale -> network -> options that differ from the defaults."""
RATES = {"resnet": Rates(local=(0.001, 0.003, 0.01, 0.03))}
"""Network -> its grid, where it differs from the perceptrons': Adam needs smaller rates."""


def compare_late(folder: Path, study: Study, report: Report) -> str:
    """Run the arms on each network; write the numbers and a picture, and return the table."""
    networks = study.parts(list(SETTINGS[study.scale]))
    settings = {network: study.settings(SETTINGS[study.scale][network]) for network in networks}
    rows = {
        (network, arm): Row(arm, settings[network], RATES.get(network, Rates())) for network in networks for arm in ARMS
    }
    found = measure(rows, study, folder, report)
    once = _once(rows, found, study, folder, report)
    cells = {key: _as_json(measured, once[key], rows[key].options["first_round"]) for key, measured in found.items()}
    document = {
        "scale": study.scale,
        "seeds": list(study.seeds),
        "networks": {
            network: {"settings": settings[network], "arms": {arm: cells[network, arm] for arm in ARMS}}
            for network in networks
        },
    }
    write_json(folder / "late.json", document)
    _draw(folder / "late.png", found, networks)
    table = []
    for network in networks:
        for kind in (PUBLISHED, TUNED):
            best = {moment: max(ARMS, key=lambda arm: cells[network, arm][kind][moment]["mean"]) for moment in MOMENTS}
            for arm in ARMS:
                moments = cells[network, arm][kind]
                texts = (percent(moments[moment]) + (" *" if best[moment] == arm else "  ") for moment in MOMENTS)
                table.append((network, arm, kind, *texts))
    title = (
        f"Late meetings, {study.scale} scale: test accuracy (%), mean ± standard deviation over the seeds "
        f"{', '.join(map(str, study.seeds))}; * is the best"
    )
    return summary_table(title, ("network", "arm", "learning rates", *MOMENTS), table, left=3) + missed(found)


def _once(
    rows: Mapping[tuple[str, str], Row],
    found: Mapping[tuple[str, str], Measured],
    study: Study,
    folder: Path,
    report: Report,
) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Return the accuracies of runs in which agents meet in one round only, by key and rates."""
    cells: dict[tuple[str, str], dict[str, list[Configuration]]] = {}
    for key, row in rows.items():
        only = {"last_round": row.options["first_round"]} if row.arm != "siloed" else {}
        kinds: dict[str, dict[str, Any]] = {PUBLISHED: dict(PUBLISHED_TERMS), TUNED: dict(found[key].chosen)}
        cells[key] = {
            kind: [study.cell(row, seed, **only, **chosen) for seed in study.seeds] for kind, chosen in kinds.items()
        }
    flat = [cell for kinds in cells.values() for some in kinds.values() for cell in some]
    results: dict[Configuration, Result] = study.run(flat[::-1], folder, report)
    return {
        key: {kind: [accuracy_in(cell, results[cell]) for cell in some] for kind, some in kinds.items()}
        for key, kinds in cells.items()
    }


def _as_json(measured: Measured, once: Mapping[str, list[float]], first_round: int) -> dict[str, Any]:
    document = measured.as_json()
    for kind in (PUBLISHED, TUNED):
        by_moment = {FIRST: measured.accuracies(kind, first_round), END: measured.accuracies(kind), ONCE: once[kind]}
        document[kind] |= {moment: {**spread(values), "by seed": values} for moment, values in by_moment.items()}
    return document


def _draw(path: Path, found: Mapping[tuple[str, str], Measured], networks: list[str]) -> None:
    """Draw the mean accuracy over agents and seeds by round, for the tuned runs."""
    figure = new_figure(5 * len(networks), 4)
    for axes, network in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks, strict=True):
        for arm in ARMS:
            runs = found[network, arm].runs[TUNED]
            rounds = sorted({entry["round"] for result in runs.values() for entry in result["agents"]["A"]["rounds"]})
            means = [mean(accuracy_in(cell, result, number) for cell, result in runs.items()) for number in rounds]
            axes.plot(rounds, [100 * value for value in means], marker="o", label=arm)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(title=network, xlabel="round", ylabel="test accuracy (%), tuned")
    axes.legend(fontsize="small")
    save_figure(figure, path)
