"""One agent's node, without a broker."""

from flwr.app import ConfigRecord, Message, RecordDict

from clients.client_app import app
from fl_market.configuration import Configuration
from fl_market.runner.inline_grid import InlineGrid


class Node:
    """The node of agent A; a test sends it messages."""

    def __init__(self, **options):
        self.grid = InlineGrid(app, 2, Configuration.of(**options).to_mapping())
        (self.node, self.context), *_ = self.grid.contexts.items()

    def send(self, message_type, config=None, **records):
        content = RecordDict({"config": ConfigRecord({"server-round": 1, **(config or {})}), **records})
        (reply,) = self.grid.send_and_receive([Message(content, self.node, message_type)])
        return reply

    def error(self, message_type, config=None, **records):
        """Return the last line of the error reply, which the broker logs."""
        return self.send(message_type, config, **records).error.reason.splitlines()[-1]

    def model(self):
        return self.context.state["model"].to_torch_state_dict()
