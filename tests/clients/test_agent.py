import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import nn

from clients.client_app import app
from clients.quote_history import learned_prior, remember, resolve
from clients.training import evaluate, pack, train, unpack
from clients.valuation import decide, value, value_disclosed
from fl_market.configuration import Configuration
from fl_market.errors import MarketError
from fl_market.naming import Pseudonyms, agent_name
from fl_market.parameters import digest
from fl_market.pricing import Empirical, Exponential, Uniform, exact_gain, gain_bounds, nash, split
from fl_market.pricing import ask as ask_rule
from fl_market.protocol import (
    DEBT,
    Ask,
    Bid,
    Debt,
    DisclosedQuote,
    Offer,
    PublicPrice,
    QuoteRequest,
    Receipt,
    from_columns,
    to_columns,
)
from fl_market.runner.inline_grid import InlineGrid


def offer(name, gain, bound, after=""):
    return Offer(name, f"seller-{name}", "all", 0.5, gain, bound, after)


def test_the_bid_is_the_gain_on_the_surest_offer():
    assert decide([offer("a", 0.9, 0.1), offer("b", 0.4, 0.3)], bid_scale=2.0) == [Bid("b", 800_000)]
    assert decide([], bid_scale=2.0) == []
    twins = [offer("z", 0.4, 0.3), offer("a", 0.4, 0.3)]
    assert decide(twins, bid_scale=1.0)[0].offer == "z", "the first of equals: ids are random"
    bundle = [offer("a", 0.9, 0.1), offer("b", 0.4, 0.3), offer("b+c", 0.2, 0.1, "b"), offer("b+c+a", 0.1, 0.05, "b+c")]
    assert decide(bundle, bid_scale=1.0) == [Bid("b", 400_000), Bid("b+c", 200_000), Bid("b+c+a", 100_000)]


def test_the_ask_is_the_myerson_price():
    requests = [QuoteRequest("q", "all"), QuoteRequest("r", "all")]
    assert value(requests, Uniform(0, 1), cost=0.2, bid_scale=2.0) == [Ask("q", 1_200_000), Ask("r", 1_200_000)]
    assert value(requests[:1], Exponential(10), cost=0.0, bid_scale=1.0) == [Ask("q", 100_000)]
    assert value(requests, Uniform(0, 1), cost=1.0, bid_scale=1.0) == [], "no price sells at a profit"


def test_the_ask_on_a_disclosed_quote():
    def asked(kind, cost=0.0, **disclosed):
        (ask,) = value_disclosed([DisclosedQuote("q", "all", **disclosed)], kind, cost, bid_scale=2.0)
        return ask.amount

    same = {"alpha": 0.4, "beta": 0.6, "gain": 1.5}
    gain = 1 - 1 / exact_gain(1.5, 0.4)
    assert asked("sharp", **same) == pytest.approx(2_000_000 * gain / 2, abs=1), "the Myerson price of U[0, gain]"
    assert asked("sharp", cost=0.2, **same) == pytest.approx(2_000_000 * (gain + 0.2) / 2, abs=1)
    assert asked("paper", **same) == 0, "the paper's lower bound lies below no gain at all"
    assert asked("paper", cost=0.3, **same) == 600_000
    other = {"alpha": 0.4, "beta": 0.3, "gain": 1.5}
    high = gain_bounds(1.5, 0.4, 0.3)[1]
    assert asked("sharp", **other) == pytest.approx(1_000_000 * (1 - 1 / high), abs=1)
    assert asked("sharp", alpha=0.0, beta=1.0, gain=1.0) == 1_000_000, "nothing is known: U[0, 1]"


def quoted(context, rounds, asked, sold):
    """Quotes of some rounds at one ask, each sold at a price or declined (None)."""
    for number in rounds:
        remember(context, [Ask(f"{number}/x", asked)])
        receipts = [] if sold is None else [Receipt(f"{number}/x", "sold", "x", sold)]
        resolve(context, receipts)


def test_a_seller_learns_from_its_sales_and_from_what_was_declined():
    context = Node().context
    quoted(context, range(4), 100_000, 150_000)
    assert learned_prior(context, nash, 1.0) is None, "too few to trust"
    helped = learned_prior(context, nash, 1.0, [PublicPrice(50_000), PublicPrice(0)])
    assert helped == Empirical([0.2] * 4, accepted=[0.0, 0.05]), "until they are enough, others' prices help out"
    quoted(context, range(4, 8), 100_000, 150_000)
    quoted(context, range(8, 10), 300_000, None)
    assert learned_prior(context, nash, 1.0) == Empirical([0.2] * 8, declined=[0.3] * 2)
    assert learned_prior(context, nash, 0.0) is None, "to whom gains are worth nothing its asks say nothing"
    assert learned_prior(context, nash, 2.0) == Empirical([0.1] * 8, declined=[0.15] * 2)
    # the ask as the price tells no more than that the bid was as high
    assert learned_prior(context, ask_rule, 1.0) == Empirical(accepted=[0.1] * 8, declined=[0.3] * 2)


def test_what_a_price_reveals():
    for rule in (nash, split(0.25), split(1.0)):
        assert rule.reveals(rule.price(900_000, 100_000), 100_000) == 900_000
    assert ask_rule.reveals is None


def test_training_learns_and_depends_on_its_stream_alone():
    torch.manual_seed(0)
    inputs = torch.randn(300, 4)
    data, criterion = (inputs, (inputs[:, 0] > 0).long()), nn.CrossEntropyLoss(reduction="none")
    start = nn.Linear(4, 2)
    states = []
    for purpose in ("a", "a", "b"):
        model = nn.Linear(4, 2)
        model.load_state_dict(start.state_dict())
        optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
        train(model, optimiser, criterion, data, epochs=3, batch_size=32, seed=0, purpose=(purpose,))
        states.append(digest(model.state_dict()))
        loss, accuracy, on_targets = evaluate([model], criterion, data)
        assert accuracy > 0.95
        assert loss < evaluate([start], criterion, data)[0]
        assert on_targets == accuracy
    assert states[0] == states[1] != states[2]


def test_an_agent_without_data_says_so():
    model = nn.Linear(4, 2)
    empty = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    with pytest.raises(MarketError, match="no training data"):
        train(
            model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), empty,
            epochs=1, batch_size=2, seed=0, purpose=(),
        )  # fmt: skip


def test_optimiser_state_as_bytes():
    parameter = nn.Parameter(torch.ones(3))
    optimiser = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()
    optimiser.step()
    restored = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    restored.load_state_dict(unpack(pack(optimiser.state_dict())))
    assert torch.equal(restored.state[parameter]["momentum_buffer"], torch.ones(3))


class Node:
    """One agent's node, spoken to directly."""

    def __init__(self, **options):
        self.grid = InlineGrid(app, 2, Configuration(momentum=0.9, **options).to_mapping())
        (self.node, self.context), *_ = self.grid.contexts.items()

    def send(self, message_type, config=None, **records):
        content = RecordDict({"config": ConfigRecord({"server-round": 1, **(config or {})}), **records})
        (reply,) = self.grid.send_and_receive([Message(content, self.node, message_type)])
        return reply

    def model(self):
        return self.context.state["model"].to_torch_state_dict()


def test_the_optimiser_survives_where_nothing_was_bought():
    agent = Node()
    first = agent.send("train").content["arrays"].to_torch_state_dict()
    before = agent.context.state["optimiser"]["state"]
    agent.send("evaluate", {"model-digest": digest(first)})
    assert agent.context.state["optimiser"]["state"] == before
    agent.send("evaluate", {"model-digest": digest(first)}, arrays=ArrayRecord(first))
    assert agent.context.state["optimiser"]["state"] == before, "the same parameters are no purchase"
    bought = {name: 0.5 * tensor for name, tensor in first.items()}
    reply = agent.send("evaluate", {"model-digest": digest(bought)}, arrays=ArrayRecord(bought))
    assert reply.content["acknowledgement"]["model-digest"] == digest(bought)
    assert "optimiser" not in agent.context.state
    assert digest(agent.model()) == digest(bought)


def test_a_debt_is_paid_at_the_price_of_its_receipt_alone():
    agent = Node()
    model = agent.send("train").content["arrays"].to_torch_state_dict()
    receipts = ConfigRecord(to_columns([Receipt("1/x", "bought", "x", 70)]))
    agent.send("evaluate", {"model-digest": digest(model)}, receipts=receipts)

    def agreed(*debts):
        reply = agent.send(DEBT, debts=ConfigRecord(to_columns(list(debts))))
        return reply.content["payment"]["agreed"]

    assert agreed(Debt("1/x", 70))
    assert not agreed(Debt("1/x", 71))
    assert not agreed(Debt("1/x", 70), Debt("2/x", 70))


def test_momentum_from_the_last_round_counts():
    """Two rounds differ from two first rounds only by what the optimiser remembers."""
    remembering, forgetful = Node(), Node()
    for agent in (remembering, forgetful):
        agent.send("train")
    del forgetful.context.state["optimiser"]
    results = [
        digest(agent.send("train").content["arrays"].to_torch_state_dict()) for agent in (remembering, forgetful)
    ]
    assert results[0] != results[1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model-digest": "0" * 64}, "no longer holds the model"),
        ({"model-digest": "0" * 64, "send": True}, "SHA-256 differs"),
    ],
)
def test_parameters_that_are_not_those_announced_are_refused(config, message):
    agent = Node()
    agent.send("train")
    before = digest(agent.model())
    records = {"arrays": ArrayRecord(agent.model())} if config.pop("send", False) else {}
    reply = agent.send("evaluate", config, **records)
    assert message in reply.error.reason
    assert digest(agent.model()) == before


def test_an_agent_s_own_settings_come_from_its_node():
    agent = Node(prior="exponential(10)")
    agent.context.node_config["prior"] = "uniform(0, 1)"
    reply = agent.send("query.quote", quotes=ConfigRecord(to_columns([QuoteRequest("q", "all")])))
    assert from_columns(Ask, reply.content["asks"]) == [Ask("q", 500_000)]
    agent.context.node_config["fit-steps"] = 1
    assert "the node configuration cannot set 'fit-steps'; accepted are partition-id, profile" in error_of(agent)


def error_of(agent):
    return agent.send("train").error.reason


def test_on_a_machine_of_its_own_an_agent_s_affairs_are_not_the_broker_s():
    """The run's options set them in a simulation only."""
    run = {"prior": "uniform(0, 1)", "spending-limit": 9.0, "agent-dir": "/somewhere", "learning-rate": 0.5}
    simulated = Configuration.of_node(run, {"partition-id": 1, "num-partitions": 2})
    assert (simulated.prior, simulated.spending_limit, simulated.agent_dir) == ("uniform(0, 1)", 9.0, "/somewhere")
    deployed = Configuration.of_node(run, {"partition-id": 1, "spending-limit": 2})
    assert (deployed.prior, deployed.spending_limit, deployed.agent_dir) == ("exponential(10)", 2.0, "")
    assert deployed.learning_rate == 0.5, "what all agents do alike is the run's, unless an agent does otherwise"
    assert Configuration.of_node(run, {"partition-id": 1, "learning-rate": 0.1}).learning_rate == 0.1
    for node, complaint in (
        ({}, "partition-id"),
        ({"partition-id": -1}, "partition-id"),
        ({"partition-id": 0, "spending-limt": 1.0}, "cannot set 'spending-limt'"),
        ({"partition-id": 0, "spending-limit": -1.0}, "spending-limit cannot be -1.0"),
        ({"partition-id": 0, "strategy": "fedavg"}, "cannot set 'strategy'"),
    ):
        with pytest.raises(MarketError, match=complaint):
            Configuration.of_node(run, node)


def test_a_node_without_a_number_says_so():
    agent = Node()
    del agent.context.node_config["partition-id"]
    assert "partition-id" in agent.send("train").error.reason


def test_names():
    assert [agent_name(index) for index in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]
    names = Pseudonyms()
    assert names.of("A") == names.of("A") != names.of("B")
    assert names.of("A") != Pseudonyms().of("A")
