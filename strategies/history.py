"""What agents report of themselves after each round: it steers nothing."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flwr.app import Message, RecordDict

from fl_market.reports import RoundReport, RoundResult

Observer = Callable[[RoundReport], None]


def agent_of(message: Message) -> str:
    """Return the name that a reply carries, or an empty string for none."""
    if not message.has_content() or "agent" not in message.content.config_records:
        return ""
    return str(message.content.config_records["agent"].get("name", ""))


def in_agent_order(replies: Iterable[Message]) -> list[Message]:
    """Return replies in an order that does not depend on when they arrived: sums of floats would."""
    return sorted(replies, key=agent_of)


class History:
    """Test metrics of every agent after every round.

    Parameters
    ----------
    arm, rounds
        For the progress reports.
    observer
        Called after each round.
    """

    def __init__(self, arm: str, rounds: int, observer: Observer | None = None) -> None:
        self.results: dict[str, list[RoundResult]] = {}
        self.offers = 0
        self.deals = 0
        self._arm, self._rounds, self._observer = arm, rounds, observer
        self._accuracy = float("nan")

    def record(self, server_round: int, contents: Mapping[str, RecordDict]) -> None:
        """Keep the metrics of the agents' replies to an evaluation, by name, and report progress."""
        self.keep(server_round, contents)
        self.report(server_round)

    def keep(self, server_round: int, contents: Mapping[str, RecordDict]) -> None:
        """Keep the metrics of the agents' replies to an evaluation, by name."""
        accuracies = []
        for agent, content in sorted(contents.items()):
            accuracy, loss = number_in(content, "test-accuracy"), number_in(content, "test-loss")
            if accuracy is None or loss is None:
                continue
            on_targets = number_in(content, "target-accuracy")
            result = RoundResult(server_round, accuracy, loss, accuracy if on_targets is None else on_targets)
            self.results.setdefault(agent, []).append(result)
            accuracies.append(accuracy)
        if accuracies:
            self._accuracy = sum(accuracies) / len(accuracies)

    def report(self, server_round: int) -> None:
        """Tell the observer how far the run is."""
        if self._observer is not None:
            self._observer(RoundReport(self._arm, server_round, self._rounds, self.deals, self._accuracy))

    def as_json(self) -> dict[str, Any]:
        """Return plain types, for a checkpoint."""
        results = {agent: [vars(result) for result in some] for agent, some in self.results.items()}
        return {"results": results, "offers": self.offers, "deals": self.deals}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Take over what :meth:`as_json` returned."""
        self.results = {
            agent: [RoundResult(**result) for result in some] for agent, some in document["results"].items()
        }
        self.offers, self.deals = document["offers"], document["deals"]


def number_in(content: RecordDict, key: str) -> float | None:
    """Return a metric of a reply, or None where it is missing or no number."""
    for record in content.metric_records.values():
        value = record.get(key)
        if isinstance(value, (int, float)):
            return float(value)
    return None
