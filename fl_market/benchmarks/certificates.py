"""``fl-market bench certificates``: how often certificates are false, missing or worthless.

Three parts: the share of simulated runs with a false certificate (*validity*), the share of true
gains that are certified (*power*), and the share of worthless sellers with a certificate
(*worthless*).
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl_market.benchmarks import certificate_power as power
from fl_market.benchmarks import certificate_validity as validity
from fl_market.benchmarks import certificate_worthless as worthless
from fl_market.choices import BENCH_PARTS
from fl_market.reports.curves import new_figure, save_figure
from fl_market.reports.table import summary_table
from fl_market.run_folder import claim_file, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SEEDS = 3
"""Number of seeds of the networks."""
Document = Mapping[str, Any]


def certificates(
    out_dir: str,
    *,
    parts: Sequence[str] = BENCH_PARTS,
    data_dir: str = "",
    runs: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
    report: Callable[[str], None] = print,
) -> str:
    """Measure the certificates; write ``certificates.json`` and a picture, return tables.

    Parameters
    ----------
    out_dir
        Folder of the files.
    parts
        The parts, of ``BENCH_PARTS``.
    data_dir
        Folder of MNIST in torchvision's layout. Empty for the shipped sample, with a tenth of the
        unused images, so that true gains are less exact.
    runs
        Number of simulated runs of each kind of seller; a tenth of it under each trial's own
        confidence, which fails nearly always.
    seed
        Decides the samples, and the first of the seeds of the networks.
    overwrite
        Whether earlier files may be overwritten.
    report
        Called with a line for each market and buyer.

    Raises
    ------
    MarketError
        If the files exist and may not be overwritten, or the data cannot be read.
    """
    folder = claim_file(Path(out_dir), "certificates.json", overwrite)
    seeds = range(seed, seed + SEEDS)
    measure: dict[str, Callable[[], Document]] = {
        "validity": lambda: _validity(runs, seed),
        "power": lambda: power.document(power.measured_trials(data_dir, seeds, report)),
        "worthless": lambda: worthless.document(worthless.tested_sellers(data_dir, seeds, report)),
    }
    found = {part: measure[part]() for part in BENCH_PARTS if part in parts}
    write_json(folder / "certificates.json", {"seed": seed, "data": "MNIST" if data_dir else "sample", **found})
    draw(found, folder / "certificates.png")
    return "\n\n".join(TABLES[part](document) for part, document in found.items())


def _validity(runs: int, seed: int) -> Document:
    counts = {"run": runs, "trial": max(1, runs // 10)}
    return {
        "agents": validity.AGENTS,
        "rounds": validity.ROUNDS,
        "samples": validity.SAMPLES,
        "error": validity.ERROR,
        "runs": counts,
        "runs with a false certificate by round": {
            kind: {scope: validity.false_by_round(kind, scope, count, seed) for scope, count in counts.items()}
            for kind in validity.SELLERS
        },
    }


def _validity_table(found: Document) -> str:
    rows = [
        (kind, *(f"{100 * by_scope[scope][-1] / count:.1f}" for scope, count in found["runs"].items()))
        for kind, by_scope in found["runs with a false certificate by round"].items()
    ]
    title = f"Validity: {found['agents']} agents, {found['rounds']} rounds: share of runs with a false certificate"
    return summary_table(title, ("sellers", *(f"{scope} (%)" for scope in found["runs"])), rows)


def _power_table(found: Document) -> str:
    rows = [
        (name, *(_of(part[key]) for key in ("gain", "gain by loss", "progress")))
        for name, part in (*found["markets"].items(), ("all", found["all"]))
    ]
    title = f"Power: share certified of the trials with a true gain above {100 * power.NOTABLE:g} %"
    return summary_table(title, ("market", "gain (%)", "gain by loss (%)", "progress (%)"), rows)


def _worthless_table(found: Document) -> str:
    header = [f"{what}, {granularity}" for granularity in worthless.GRANULARITIES for what in worthless.COUNTS]
    title = f"Worthless sellers: certificates / trials, each with an error of {100 * worthless.ERROR:g} %"
    rows = []
    for kind, counts in found["kinds"].items():
        cells = [
            f"{counts[granularity][what]} / {counts[granularity]['trials']}"
            for granularity in worthless.GRANULARITIES
            for what in worthless.COUNTS
        ]
        rows.append((kind, *cells))
    return summary_table(title, ("seller", *header), rows)


TABLES: dict[str, Callable[[Document], str]] = {
    "validity": _validity_table,
    "power": _power_table,
    "worthless": _worthless_table,
}


def _of(part: Document) -> str:
    return f"{100 * part['certified']:.0f} of {part['trials']}" if part["trials"] else "none"


def draw(found: Document, path: Path) -> Path:
    """Draw a panel for each part; return the picture's path."""
    panels = {"validity": _draw_validity, "power": _draw_power, "worthless": _draw_worthless}
    figure = new_figure(6 * len(found), 4.2)
    for part, panel in zip(found, figure.subplots(1, len(found), squeeze=False)[0], strict=True):
        panels[part](found[part], panel)
    return save_figure(figure, path)


def _draw_validity(found: Document, panel: "Axes") -> None:
    ticks, runs = (0, 1, 5, 20, 100), found["runs"]["run"]
    for kind, by_scope in found["runs with a false certificate by round"].items():
        shares = [100 * count / runs for count in by_scope["run"]]
        panel.plot(range(1, len(shares) + 1), shares, label=kind)
    panel.axhline(100 * found["error"], color="black", linestyle="--")
    panel.set(xlabel="round", ylabel="runs with a false certificate (%)", yscale="symlog", ylim=(0, 105))
    panel.set_yticks(ticks, labels=map(str, ticks))
    panel.legend(fontsize="x-small")


def _draw_power(found: Document, panel: "Axes") -> None:
    edges = power.BINS
    labels = [f"{100 * low:g}…{100 * high:g}" for low, high in pairwise(edges)]
    for offset, (gain, certified) in enumerate((("gain", "certified"), ("progress", "priced"))):
        shares = [
            _share([one[certified] for one in found["trials"] if one[gain] is not None and low < one[gain] <= high])
            for low, high in pairwise(edges)
        ]
        panel.bar([place + 0.4 * offset - 0.2 for place in range(len(shares))], shares, width=0.4, label=gain)
    panel.set_xticks(range(len(labels)), labels=labels, fontsize="x-small")
    panel.set(xlabel="true relative gain (%)", ylabel="certified (%)", ylim=(0, 105))
    panel.legend(fontsize="x-small")


def _draw_worthless(found: Document, panel: "Axes") -> None:
    bars = [(granularity, what) for granularity in worthless.GRANULARITIES for what in worthless.COUNTS]
    for offset, (granularity, what) in enumerate(bars):
        parts = [counts[granularity] for counts in found["kinds"].values()]
        shares = [100 * part[what] / max(1, part["trials"]) for part in parts]
        places = [place + (offset - 2.5) / 7 for place in range(len(parts))]
        panel.barh(places, shares, height=1 / 7, label=f"{what}, {granularity}")
    panel.axvline(100 * worthless.ERROR, color="black", linestyle="--")
    panel.set_yticks(range(len(found["kinds"])), labels=found["kinds"], fontsize="x-small")
    panel.set(xlabel="worthless sellers (%)", xlim=(0, 105))
    panel.legend(fontsize="x-small")


def _share(flags: Sequence[bool]) -> float:
    return 100 * sum(flags) / len(flags) if flags else 0.0
