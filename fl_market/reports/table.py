"""The tables that a comparison ends with."""

import io
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from fl_market.pricing.money import credits_text
from fl_market.reports.results import ArmResult
from fl_market.reports.summary import has_own_targets, start, summarise

DEALS = "deals / evaluated offers"


def results_table(arms: Mapping[str, ArmResult]) -> str:
    """Return the arms as text: each agent's test accuracy and trade, and any failures."""
    agents = sorted({name for result in arms.values() for name in result.agents})
    own = any(has_own_targets(result) for result in arms.values())
    failed = not all(result.complete for result in arms.values())
    header = ["arm", "starts", *agents, *[f"{name}, own targets" for name in agents] * own]
    header += ["rounds finished", "failed replies"] * failed
    rows = []
    for arm, result in arms.items():
        accuracies = [
            _percent(result.agents[name].as_json()[metric]) if name in result.agents else ""
            for metric in ("test_accuracy", "target_accuracy")[: 1 + own]
            for name in agents
        ]
        rows.append((arm, start(result), *accuracies, *_failures(result) * failed, *_trade(result)))
    header += [DEALS, "paid (credits)", "earned (credits)", "seconds"]
    return summary_table("Test accuracy (%) and trade", header, rows, left=2)


def timings_table(arms: Mapping[str, ArmResult]) -> str:
    """Return where the time of each arm went, as text; empty if it was not measured."""
    rows = [
        (arm, part, f"{seconds:.2f}", f"{100 * seconds / max(result.seconds, 1e-9):.1f} %", str(calls))
        for arm, result in arms.items()
        for part, (seconds, calls) in sorted(result.timings.items(), key=lambda entry: -entry[1][0])
    ]
    header = ("arm", "part", "seconds", "share", "calls")
    return summary_table("Where the time went", header, rows, left=2) if rows else ""


def seeds_table(by_seed: Mapping[int, Mapping[str, ArmResult]]) -> str:
    """Return each agent's test accuracy for every arm: mean and standard deviation over seeds."""
    arms = summarise(by_seed)
    agents = sorted({name for arm in arms.values() for name in arm["agents"]})
    own = any("targets" in arm for arm in arms.values())
    failed = not all(result.complete for results in by_seed.values() for result in results.values())
    header = ["arm", "starts", *agents, *[f"{name}, own targets" for name in agents] * own]
    header += ["rounds finished", "failed replies"] * failed + [DEALS]
    rows = []
    for arm, summary in arms.items():
        found = [*summary["agents"].values(), *(summary["targets"].values() if own else ())]
        cells = [f"{100 * cell['mean']:.2f} ± {100 * cell['std']:.2f}" for cell in found]
        failures = [
            _finished(summary["rounds_finished"], summary["rounds"]),
            _counts(summary["failed_replies"]),
        ] * failed
        trade = f"{summary['deals']:.1f} / {summary['offers']:.1f}" if summary["offers"] else ""
        rows.append((arm, summary["starts"], *cells, *failures, trade))
    seeds = ", ".join(map(str, by_seed))
    title = f"Test accuracy (%), mean ± standard deviation over the seeds {seeds}"
    return summary_table(title, header, rows, left=2)


def summary_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return a plain table; the first ``left`` columns are text, aligned left, others numbers."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(header):
        table.add_column(column, justify="left" if index < left else "right")
    for row in rows:
        table.add_row(*row)
    buffer = io.StringIO()
    Console(file=buffer, width=160, color_system=None, legacy_windows=False).print(table)
    return buffer.getvalue().rstrip("\n")


def _trade(result: ArmResult) -> list[str]:
    seconds = f"{result.seconds:.1f}"
    if not result.offers:
        return ["", "", "", seconds]
    paid, earned = (
        "  ".join(f"{name} {credits_text(getattr(agent, side))[:-3]}" for name, agent in result.agents.items())
        for side in ("paid", "earned")
    )
    return [f"{result.deals} / {result.offers}", paid, earned, seconds]


def _failures(result: ArmResult) -> list[str]:
    return [
        _finished({name: agent.rounds_finished for name, agent in result.agents.items()}, result.rounds),
        _counts({name: agent.failed_replies for name, agent in result.agents.items()}),
    ]


def _finished(rounds: Mapping[str, int], total: int) -> str:
    return ", ".join(f"{name} {count}/{total}" for name, count in rounds.items())


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in numbers.items() if count)


def _percent(accuracy: float | None) -> str:
    return "—" if accuracy is None else f"{100 * accuracy:.2f}"
