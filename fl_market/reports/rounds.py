"""All tests and accounts as CSV, in long format: tables show no single agent of many."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from fl_market.reports.results import ArmResult

ROUNDS, AGENTS = "rounds.csv", "agents.csv"


def rounds_csv(arms: Mapping[str, ArmResult]) -> str:
    """Return a line for each arm, agent and round with a test."""
    rows = (
        (arm, name, entry.round, entry.test_accuracy, entry.test_loss, entry.target_accuracy)
        for arm, result in arms.items()
        for name, agent in result.agents.items()
        for entry in agent.rounds
    )
    return _text(("arm", "agent", "round", "test_accuracy", "test_loss", "target_accuracy"), rows)


def agents_csv(arms: Mapping[str, ArmResult]) -> str:
    """Return a line for each arm and agent; amounts are in micro-credits."""
    counts = ("rounds_finished", "failed_replies", "paid", "earned", "balance")
    rows = (
        (arm, name, *(getattr(agent, count) for count in counts))
        for arm, result in arms.items()
        for name, agent in result.agents.items()
    )
    return _text(("arm", "agent", *counts), rows)


def _text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
