"""A whole market over a grid in this process, whose messages a test can see and change."""

from flwr.app import ArrayRecord

from clients.client_app import app
from fl_market.configuration import Configuration
from fl_market.ledger import ESCROW, DealState, Ledger
from fl_market.protocol import DELIVERY
from fl_market.runner.inline_grid import InlineGrid
from fl_market.sealing import unseal
from strategies.arms import ARMS, Setting
from strategies.history import History
from tests.terms import PUBLISHED

TRAIN, EVALUATE = "train", "evaluate"


def configured(**options):
    defaults = {
        "strategy": "market-priced",
        "num_server_rounds": 3,
        "first_round": 2,
        "prior": "exponential(1000)",
        "learning_rate": 0.1,
        **PUBLISHED,
    }
    return Configuration.of(**(defaults | options))


class SpiedGrid(InlineGrid):
    """A grid that keeps all messages, and lets a test change what an agent answers."""

    def __init__(self, configuration, tamper=None, reorder=None):
        super().__init__(app, configuration.run.agents, configuration.to_mapping())
        self.tamper, self.reorder = tamper, reorder
        self.seen = []

    def agent(self, message):
        return "ABCDEF"[message.metadata.dst_node_id - 1000]

    def answer(self, message):
        reply = super().answer(message)
        if self.tamper is not None:
            reply = self.tamper(self.agent(message), message, reply)
        self.seen.append((self.agent(message), message, reply))
        return reply

    def send_and_receive(self, messages, *, timeout=None):
        replies = [reply for reply in super().send_and_receive(messages, timeout=timeout) if reply is not None]
        return self.reorder(replies) if self.reorder else replies

    def sent(self, message_type, agent=None):
        return [m for name, m, _ in self.seen if m.metadata.message_type == message_type and agent in (None, name)]


def play(tamper=None, reorder=None, node_config=None, ledger=None, **options):
    """Run a market and return its strategy, its grid and its ledger (in memory by default)."""
    configuration = configured(**options)
    grid = SpiedGrid(configuration, tamper, reorder)
    for node, private in (node_config or {}).items():
        grid.contexts[node].node_config.update(private)
    ledger = ledger or Ledger.open()

    def check(report):
        """After every round the ledger is valid, escrow is empty, and no money was created."""
        assert ledger.verify() == []
        balances = ledger.balances()
        assert balances[ESCROW] == 0
        assert sum(balances.values()) == 0
        checked.append(report.round)

    checked = []
    history = History(configuration.run.strategy, configuration.run.num_server_rounds, check)
    strategy = ARMS[configuration.run.strategy].build(
        Setting(configuration, configuration.load_task(), history, ledger)
    )
    common = configuration.load_task().initial_model(configuration.run.seed)
    strategy.start(
        grid=grid, initial_arrays=ArrayRecord(common.state_dict()), num_rounds=configuration.run.num_server_rounds
    )
    assert checked == list(range(1, configuration.run.num_server_rounds + 1))
    return strategy, grid, ledger


def tamper_with(agent, message_type, change, market_round=2):
    """Change one agent's answers of one type, from one round on."""

    def tamper(name, message, reply):
        concerned = name == agent and message.metadata.message_type == message_type
        if concerned and int(message.metadata.group_id) >= market_round:
            return change(message, reply)
        return reply

    return tamper


def settled(ledger):
    return [(deal.round, deal.buyer) for deal, state in ledger.deals() if state is DealState.SETTLED]


def changed(reply, **records):
    for key, record in records.items():
        reply.content[key] = record
    return reply


def broken(change):
    """A training reply whose parameters are changed."""

    def apply(message, reply):
        state = reply.content["arrays"].to_torch_state_dict()
        change(state)
        return changed(reply, arrays=ArrayRecord(state))

    return apply


class Purchases:
    """The purchases of a run, opened as their buyers open them."""

    def __init__(self):
        self._sealed = {}

    def opened(self, name, message):
        """Return the model that a message lets a buyer open, or None."""
        if message.metadata.message_type == DELIVERY:
            self._sealed[name] = message.content["sealed"].to_torch_state_dict()
        if "key" not in message.content:
            return None
        return unseal(self._sealed[name], message.content["key"]["key"])
