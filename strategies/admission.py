"""Admission of agents to their seats, in the first round or after a resume."""

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fl_market.broker import Broker
from fl_market.errors import MarketError
from fl_market.parameters import StateDict, check_parameters, digest
from fl_market.registry import Registry
from strategies.exchange import ask, identification, wait_for_nodes, warn
from strategies.records import HELD, agent_in, parameters_in, profile_in, text_in
from strategies.seats import Seat, Seats


class Admission:
    """Seats the agents of one market.

    Parameters
    ----------
    broker
        Opens accounts, and has the models of agents seated before a resume.
    seats
        The seats.
    agents
        Number of agents to wait for.
    connect_timeout, reply_timeout
        Seconds to wait for agents to connect, and to identify themselves.
    bind_accounts
        Tie each account to the node that opened it.
    registry
        Names the agent of each node by the key with which the node authenticates; None for none.
    """

    def __init__(
        self,
        broker: Broker,
        seats: Seats,
        *,
        agents: int,
        connect_timeout: float,
        reply_timeout: float,
        bind_accounts: bool,
        registry: Registry | None = None,
    ) -> None:
        self._broker, self._seats, self._agents = broker, seats, agents
        self._connect_timeout, self._reply_timeout = connect_timeout, reply_timeout
        self._bind_accounts, self._registry = bind_accounts, registry
        self._keys: dict[int, bytes] = {}

    @property
    def awaited(self) -> set[str]:
        """Agents of an earlier run of the market that have no seat yet."""
        return set(self._broker.state.models) - set(self._seats.names)

    def nodes(self, grid: Grid, market_round: int, *, resumable: bool) -> list[int]:
        """Return the connected nodes that will train; awaited agents are seated again first.

        Before the first round and after a resume, the broker waits for all agents; later, for one.

        Parameters
        ----------
        grid
            Connection to the nodes.
        market_round
            Number of the round.
        resumable
            Whether earlier rounds have checkpoints.

        Raises
        ------
        MarketError
            If too few agents connect in time.
        """
        known = sorted({*self._seats.names, *self.awaited})
        wanted = 1 if len(self._seats) else self._agents
        try:
            nodes = wait_for_nodes(grid, wanted, self._connect_timeout, least=1 if known else wanted, awaited=known)
        except MarketError as error:
            if not resumable or market_round == 1:
                raise
            raise MarketError(f"{error}; rounds up to {market_round - 1} are kept: resume the run") from None
        if self._registry is not None:
            self._keys = {info.node_id: info.public_key for info in grid.get_nodes()}
        silent = self._reseat(grid, market_round, [node for node in nodes if node not in self._seats])
        return [node for node in nodes if node not in silent]

    def model_in(self, content: RecordDict) -> StateDict:
        """Return the model of a training reply; nothing is changed.

        Raises
        ------
        MarketError
            If the reply names no agent, or its model is invalid.
        """
        name, model = agent_in(content), parameters_in(content)
        profile = None if name in self._seats.names else profile_in(content)
        check_parameters(model, self._broker.template(name, profile))
        return model

    def take_in(self, node: int, content: RecordDict) -> str:
        """Seat the agent that replied with a valid model, and return its name.

        Raises
        ------
        MarketError
            If the agent must not sit there, or its profile is invalid.
        """
        name = agent_in(content)
        self._seats.check(name, node)
        owner, seat = self._owner(name, node), self._seats.at(node)
        profile = profile_in(content) if seat is None else None
        held = text_in(content, HELD, "model-digest")
        if seat is None:
            self._seat(name, owner)  # before the profile: a stranger must not change the agent's
            if profile is not None:
                self._broker.register(name, profile)
            seat = Seat(name, node, held)
            self._seats.take(seat)
        seat.hold(held)
        return name

    def who(self, node: int) -> str:
        """Return the pseudonym of the agent at a node, for the log."""
        seat = self._seats.at(node)
        return f"node {node}" if seat is None else self._broker.state.pseudonyms[seat.name]

    def _reseat(self, grid: Grid, market_round: int, nodes: list[int]) -> set[int]:
        """Seat awaited agents again, at their current nodes; return the nodes without a valid name.

        Such nodes must not train: an agent that starts anew would lose its model.
        """
        if not self.awaited or not nodes:
            return set()
        names, failures = ask(grid, identification(nodes, market_round), self._reply_timeout, agent_in)
        for node, name in sorted(names.items()):
            try:
                if name in self.awaited:
                    self._seat(name, self._owner(name, node))
                    self._seats.take(Seat(name, node, digest(self._broker.state.models[name])))
            except MarketError as error:
                failures[node] = str(error)
        for node, reason in failures.items():
            warn(market_round, self.who(node), reason)
        return set(failures)

    def _seat(self, name: str, owner: str) -> None:
        self._broker.seat(name, owner, endowed=self._registry is None)

    def _owner(self, name: str, node: int) -> str:
        """Return the owner of an agent's account; the node must be that agent's."""
        if self._registry is not None:
            return self._registry.owner(name, self._keys.get(node, b""))
        return str(node) if self._bind_accounts else ""
