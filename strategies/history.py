"""The agents' own reports, and counts of their failed replies; no decision uses them."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from flwr.app import RecordDict

from fl_market.reports import RoundReport, RoundResult

Observer = Callable[[RoundReport], None]


class History:
    """Test metrics of every agent after every round, and the rounds that each agent finished.

    Parameters
    ----------
    arm, rounds
        Shown in the progress reports.
    observer
        Called after each round.

    Attributes
    ----------
    results
        Agent -> its test metrics.
    finished
        Agent -> number of its finished rounds. In these the broker accepted its training reply, and
        the agent answered the evaluation message, if there was one.
    failed
        Agent -> number of its failed replies. The key is the node's id while the agent there is
        unknown.
    reasons
        The same keys -> reason of the last failure.
    offers, deals
        Number of evaluated purchases, and of settled deals.
    """

    def __init__(self, arm: str, rounds: int, observer: Observer | None = None) -> None:
        self.results: dict[str, list[RoundResult]] = {}
        self.finished: Counter[str] = Counter()
        self.failed: Counter[str | int] = Counter()
        self.reasons: dict[str | int, str] = {}
        self.offers = 0
        self.deals = 0
        self._arm, self._rounds, self._observer = arm, rounds, observer
        self._accuracy = float("nan")

    def fail(self, agent: str | int, reason: str) -> None:
        """Count a failed reply of an agent, or of a node whose agent is unknown."""
        self.failed[agent] += 1
        self.reasons[agent] = reason

    def identify(self, names: Mapping[int, str]) -> None:
        """Attribute the failures of nodes to their agents, except agents that finished a round."""
        for node, name in names.items():
            if node in self.failed and name not in self.finished:
                self.failed[name] += self.failed.pop(node)
                self.reasons[name] = self.reasons.pop(node)

    def record(
        self, server_round: int, contents: Mapping[str, RecordDict], finished: Collection[str] | None = None
    ) -> None:
        """Keep the metrics of a round, and report progress."""
        self.keep(server_round, contents, finished)
        self.report(server_round)

    def keep(
        self, server_round: int, contents: Mapping[str, RecordDict], finished: Collection[str] | None = None
    ) -> None:
        """Keep the metrics in the agents' replies to an evaluation.

        Parameters
        ----------
        server_round
            Number of the round.
        contents
            Agent -> content of its reply.
        finished
            Agents that finished the round; by default all that replied. The default is correct if
            only agents that trained were asked to evaluate.
        """
        self.finished.update(contents.keys() if finished is None else finished)
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
        """Report progress to the observer."""
        if self._observer is not None:
            failures = self.failed.total()
            self._observer(RoundReport(self._arm, server_round, self._rounds, self.deals, self._accuracy, failures))

    def as_json(self) -> dict[str, Any]:
        """Return plain types, for a checkpoint; failures of nodes without a name are left out."""
        return {
            "results": {agent: [vars(result) for result in some] for agent, some in self.results.items()},
            "finished": dict(self.finished),
            "failed": {agent: count for agent, count in self.failed.items() if isinstance(agent, str)},
            "reasons": {agent: reason for agent, reason in self.reasons.items() if isinstance(agent, str)},
            "offers": self.offers,
            "deals": self.deals,
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Restore the history from the result of :meth:`as_json`."""
        self.results = {
            agent: [RoundResult(**result) for result in some] for agent, some in document["results"].items()
        }
        self.finished = Counter(document["finished"])
        self.failed, self.reasons = Counter(document["failed"]), dict(document["reasons"])
        self.offers, self.deals = document["offers"], document["deals"]


def number_in(content: RecordDict, key: str) -> float | None:
    """Return a metric of a reply, or None if it is missing or not a number."""
    for record in content.metric_records.values():
        value = record.get(key)
        if isinstance(value, (int, float)):
            return float(value)
    return None
