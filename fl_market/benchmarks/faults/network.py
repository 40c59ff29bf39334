"""A network between the broker and the agents that loses and delays messages, and its clock."""

from collections.abc import Callable, Iterable, Mapping
from uuid import uuid4

import numpy as np
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from fl_market.benchmarks.faults.crashes import CrashError
from fl_market.runner.inline_grid import InlineGrid

LOST, UNANSWERED, LATE = 0.03, 0.03, 0.03
"""Shares of the messages that do not arrive, whose reply does not, and whose reply is late."""
QUICK, SLOW = (0.01, 0.5), (0.5, 20.0)
"""Shortest and longest delay of a reply in seconds, in time and late."""


class Clock:
    """A clock that moves only when somebody waits."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        """Return the time in seconds."""
        return self.seconds

    def pause(self, seconds: float) -> None:
        """Wait."""
        self.seconds += seconds


class Network(InlineGrid):
    """Agents behind an unreliable network.

    Parameters
    ----------
    client_app, run_config
        The agents' app, and Flower's run configuration.
    nodes
        Configuration of each agent's node.
    dice
        Decides the fate of each message.
    clock
        The time.
    begun
        Called when an agent begins to handle a message, and when the broker waits or goes on.
    crashed
        Called with an agent's number after its machine has crashed.

    Attributes
    ----------
    faulty
        Whether messages are lost and late at present.
    answering
        Number of the agent that handles a message at present; None for none.
    """

    def __init__(
        self,
        client_app: ClientApp,
        nodes: Iterable[Mapping[str, int | str]],
        run_config: Mapping[str, bool | int | float | str],
        *,
        dice: np.random.Generator,
        clock: Clock,
        begun: Callable[[], None],
        crashed: Callable[[int], None],
    ) -> None:
        configurations = list(nodes)
        super().__init__(client_app, len(configurations), run_config)
        for context, own in zip(self.contexts.values(), configurations, strict=True):
            context.node_config.update(own)
        self.faulty = True
        self.answering: int | None = None
        self._dice, self._clock, self._begun, self._crashed = dice, clock, begun, crashed
        self._under_way: dict[str, tuple[float, Message]] = {}

    def forget(self, agent: int) -> None:
        """Lose an agent's memory: its machine has crashed."""
        list(self.contexts.values())[agent].state = RecordDict()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; the agents that they reach answer."""
        identifiers = []
        self._begun()
        for message in messages:
            identifier = str(uuid4())
            message.metadata.__dict__["_message_id"] = identifier
            identifiers.append(identifier)
            fate = self._dice.uniform() if self.faulty else 1.0
            if fate < LOST:
                continue
            reply = self._answer(message)
            if reply is None or LOST <= fate < LOST + UNANSWERED:
                continue
            delay = SLOW if LOST + UNANSWERED <= fate < LOST + UNANSWERED + LATE else QUICK
            self._under_way[identifier] = (self._clock.now() + float(self._dice.uniform(*delay)), reply)
        self._begun()
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have arrived, each once."""
        now = self._clock.now()
        here = [key for key in message_ids if key in self._under_way and self._under_way[key][0] <= now]
        return [self._under_way.pop(key)[1] for key in here]

    def _answer(self, message: Message) -> Message | None:
        """Return an agent's reply; None if its machine crashes."""
        self.answering = list(self.contexts).index(message.metadata.dst_node_id)
        try:
            self._begun()
            return self.answer(message)
        except CrashError:
            self._crashed(self.answering)
            return None
        finally:
            self.answering = None
