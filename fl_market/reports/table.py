"""The tables that a comparison ends with."""

import io
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from fl_market.pricing.money import credits_text
from fl_market.reports.results import ArmResult
from fl_market.reports.summary import MANY, SPREAD, has_own_targets, spread, start, summarise

DEALS = "deals / evaluated offers"


def results_table(arms: Mapping[str, ArmResult]) -> str:
    """Return the arms as text: the agents' test accuracy and trade, and any failures.

    Of many agents there are the spread over them, and sums.
    """
    agents = sorted({name for result in arms.values() for name in result.agents})
    own = any(has_own_targets(result) for result in arms.values())
    failed = not all(result.complete for result in arms.values())
    columns = SPREAD if len(agents) >= MANY else agents
    header = ["arm", "starts", *columns, *[f"{name}, own targets" for name in columns] * own]
    header += ["rounds finished", "failed replies"] * failed
    rows = []
    for arm, result in arms.items():
        accuracies = [
            text
            for metric in ("test_accuracy", "target_accuracy")[: 1 + own]
            for text in _tested(result, metric, agents)
        ]
        rows.append((arm, start(result), *accuracies, *_failures(result) * failed, *_trade(result)))
    header += [DEALS, "paid (credits)", "earned (credits)", "seconds"]
    return summary_table("Test accuracy (%) and trade", header, rows, left=2)


def _tested(result: ArmResult, metric: str, agents: Sequence[str]) -> list[str]:
    """Return the cells of the agents' last tests, or of the spread over many agents."""
    found = {name: agent.as_json()[metric] for name, agent in result.agents.items()}
    if len(agents) < MANY:
        return [_percent(found[name]) if name in found else "" for name in agents]
    known = [accuracy for accuracy in found.values() if accuracy is not None]
    return [_percent(value) for value in spread(known)] if known else [_percent(None)] * len(SPREAD)


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
    many = len(agents) >= MANY
    columns = SPREAD if many else agents
    header = ["arm", "starts", *columns, *[f"{name}, own targets" for name in columns] * own]
    header += ["rounds finished", "failed replies"] * failed + [DEALS]
    rows = []
    for arm, summary in arms.items():
        kinds = ("spread", "spread_of_targets") if many else ("agents", "targets")
        found = [cell for kind in kinds[: 1 + own] for cell in summary[kind].values()]
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
    accounts = {
        side: {name: int(getattr(agent, side)) for name, agent in result.agents.items()} for side in ("paid", "earned")
    }
    if len(result.agents) >= MANY:
        paid, earned = (credits_text(sum(amounts.values()))[:-3] for amounts in accounts.values())
    else:
        paid, earned = (
            "  ".join(f"{name} {credits_text(amount)[:-3]}" for name, amount in amounts.items())
            for amounts in accounts.values()
        )
    return [f"{result.deals} / {result.offers}", paid, earned, seconds]


def _failures(result: ArmResult) -> list[str]:
    return [
        _finished({name: agent.rounds_finished for name, agent in result.agents.items()}, result.rounds),
        _counts({name: agent.failed_replies for name, agent in result.agents.items()}),
    ]


def _finished(rounds: Mapping[str, int], total: int) -> str:
    if len(rounds) >= MANY:
        return f"{min(rounds.values())} to {max(rounds.values())} of {total}"
    return ", ".join(f"{name} {count}/{total}" for name, count in rounds.items())


def _counts(numbers: Mapping[str, int]) -> str:
    if len(numbers) >= MANY:
        return str(sum(numbers.values()))
    return ", ".join(f"{name} {count}" for name, count in numbers.items() if count)


def _percent(accuracy: float | None) -> str:
    return "—" if accuracy is None else f"{100 * accuracy:.2f}"
