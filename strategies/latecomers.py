"""Agents that join a run after its first round."""

from collections.abc import Iterable, Mapping

from flwr.serverapp import Grid

from strategies.exchange import names_at


class Latecomers:
    """The nodes that are not asked to train yet, because their agents join later.

    Parameters
    ----------
    joins
        Agent -> its first round; agents that are missing join in round 1.
    reply_timeout
        Seconds to wait for a node to send its agent's name.
    """

    def __init__(self, joins: Mapping[str, int], reply_timeout: float) -> None:
        self._joins, self._reply_timeout = joins, reply_timeout
        self._names: dict[int, str] = {}

    def absent(self, grid: Grid, nodes: Iterable[int], server_round: int) -> set[int]:
        """Return those of the nodes whose agents have not joined yet."""
        if server_round >= max(self._joins.values(), default=1):
            return set()
        nodes = set(nodes)
        self._names |= names_at(grid, nodes - self._names.keys(), server_round, self._reply_timeout)
        return {node for node in nodes if self._joins.get(self._names.get(node, ""), 1) > server_round}
