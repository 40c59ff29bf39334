"""The table that a comparison ends with."""

import io
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from fl_market.pricing.money import credits_text
from fl_market.reports.results import ArmResult
from fl_market.reports.summary import has_own_targets, start, summarise


def results_table(arms: Mapping[str, ArmResult]) -> str:
    """Return the arms as text: each agent's test accuracy, and what was traded."""
    agents = sorted({name for result in arms.values() for name in result.agents})
    table = Table("arm", "starts", title="Test accuracy (%) and trade", title_justify="left")
    own = any(has_own_targets(result) for result in arms.values())
    for name in agents + [f"{name}, own targets" for name in agents] * own:
        table.add_column(name, justify="right")
    for column in ("deals", "paid (credits)", "earned (credits)", "seconds"):
        table.add_column(column, justify="right")
    for arm, result in arms.items():
        market = bool(result.offers)
        money = result.agents.items()
        table.add_row(
            arm,
            start(result),
            *(
                _percent(result.agents[name].as_json()[metric]) if name in result.agents else ""
                for metric in ("test_accuracy", "target_accuracy")[: 1 + own]
                for name in agents
            ),
            f"{result.deals} of {result.offers}" if market else "",
            "  ".join(f"{name} {credits_text(agent.paid)[:-3]}" for name, agent in money) if market else "",
            "  ".join(f"{name} {credits_text(agent.earned)[:-3]}" for name, agent in money) if market else "",
            f"{result.seconds:.1f}",
        )
    return as_text(table)


def seeds_table(by_seed: Mapping[int, Mapping[str, ArmResult]]) -> str:
    """Return mean and standard deviation over seeds of each agent's test accuracy, for every arm."""
    arms = summarise(by_seed)
    agents = sorted({name for arm in arms.values() for name in arm["agents"]})
    seeds = ", ".join(map(str, by_seed))
    own = any("targets" in arm for arm in arms.values())
    rows = []
    for arm, summary in arms.items():
        found = [*summary["agents"].values(), *(summary["targets"].values() if own else ())]
        cells = [f"{100 * cell['mean']:.2f} ± {100 * cell['std']:.2f}" for cell in found]
        rows.append((arm, summary["starts"], *cells, f"{summary['deals']:.1f} of {summary['offers']:.1f}"))
    header = ("arm", "starts", *agents, *[f"{name}, own targets" for name in agents] * own, "deals")
    return summary_table(f"Test accuracy (%), mean ± standard deviation over the seeds {seeds}", header, rows)


def as_text(table: Table) -> str:
    """Return a table as plain text, wide enough to hold it whole."""
    buffer = io.StringIO()
    Console(file=buffer, width=160, color_system=None, legacy_windows=False).print(table)
    return buffer.getvalue().rstrip("\n")


def _percent(accuracy: float | None) -> str:
    return "—" if accuracy is None else f"{100 * accuracy:.2f}"


def summary_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a plain table: text on the left, numbers on the right."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(header):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return as_text(table)
