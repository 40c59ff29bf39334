"""A Flower grid that runs the agents' ClientApp in this process, one message after the other.

It needs no Ray, no server and no ports: comparisons, sweeps and tests start at once. The apps are
those of Flower's own simulation and give the same results.
"""

from collections.abc import Iterable, Mapping
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fl_market.errors import MarketError
from fl_market.simulation import simulation
from strategies.exchange import waiting

_CLIENT_APP_RAISED = 2  # flwr's ErrorCode.CLIENT_APP_RAISED_EXCEPTION


class InlineGrid(Grid):
    """Flower's public ``Grid`` class over agents in this process.

    Parameters
    ----------
    client_app
        The agents' app.
    agents
        Number of agents; agent ``i`` has partition id ``i``.
    run_config
        Flower's run configuration.
    """

    def __init__(self, client_app: ClientApp, agents: int, run_config: Mapping[str, bool | int | float | str]) -> None:
        # Flower sets these only in a run of its own, and messages need them
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self._client_app = client_app
        self._run: Run | None = None
        self._replies: dict[str, Message] = {}
        self.contexts = {
            index + 1000: Context(
                run_id=1,
                node_id=index + 1000,
                node_config={"partition-id": index, "num-partitions": agents},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for index in range(agents)
        }

    def set_run(self, run: Run) -> None:
        """Keep the run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._run if self._run is not None else Run.create_empty(run_id=1)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a new message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all agents' nodes."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Let the agents answer at once, and return the messages' ids."""
        identifiers = []
        for message in messages:
            identifier = str(uuid4())
            message.metadata.__dict__["_message_id"] = identifier
            self._replies[identifier] = self.answer(message)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to some messages, each once, in the order of the messages."""
        return [self._replies.pop(identifier) for identifier in message_ids if identifier in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Yield the agents' replies, in the order of the messages.

        Each agent answers when its reply is asked for, so that no two of them are in memory.
        """
        for message in messages:
            with waiting(message.metadata.message_type):
                replies = self.pull_messages(self.push_messages([message]))
            yield from replies

    def answer(self, message: Message) -> Message:
        """Return one agent's reply.

        As in Flower, an exception becomes an error reply and leaves the agent's state unchanged.
        """
        context = self.contexts[message.metadata.dst_node_id]
        before = RecordDict(dict(context.state))
        try:
            with simulation():
                return self._client_app(message, context)
        except Exception as error:  # an agent's code may raise anything
            context.state = before
            reason = str(error) if isinstance(error, MarketError) else f"{type(error).__name__}: {error}"
            return Message(Error(code=_CLIENT_APP_RAISED, reason=reason), reply_to=message)
