import pytest
from flwr.app import ArrayRecord, ConfigRecord

from fl_market.configuration import Configuration
from fl_market.errors import MarketError
from fl_market.parameters import digest
from fl_market.protocol import DELIVERY, Ask, QuoteRequest, Receipt, from_columns, to_columns
from fl_market.sealing import new_key, seal
from tests.agent_node import Node


def test_the_optimiser_survives_if_nothing_was_bought():
    agent = Node(momentum=0.9)
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


def sealed_purchase(agent):
    """Return an agent's purchase, the key, and the sealed bytes that it has acknowledged."""
    trained = agent.send("train").content["arrays"].to_torch_state_dict()
    bought, key = {name: 0.5 * tensor for name, tensor in trained.items()}, new_key()
    sealed = seal(bought, key)
    reply = agent.send(DELIVERY, sealed=ArrayRecord(dict(sealed)))
    assert reply.content["acknowledgement"]["sealed-digest"] == digest(sealed)
    assert digest(agent.model()) == digest(trained), "it cannot read the purchase yet"
    return bought, key


def test_a_purchase_is_opened_by_its_key_and_a_second_key_message_changes_nothing():
    agent = Node(momentum=0.9)
    bought, key = sealed_purchase(agent)
    receipts = ConfigRecord(to_columns([Receipt("1/x", "bought", "x", 70)]))
    for _ in range(2):
        reply = agent.send(
            "evaluate", {"model-digest": digest(bought)}, key=ConfigRecord({"key": key}), receipts=receipts
        )
        assert reply.content["acknowledgement"]["model-digest"] == digest(bought)
    assert digest(agent.model()) == digest(bought)
    assert "sealed" not in agent.context.state
    assert agent.context.state["bought"]["micro-credits"] == 70, "the receipt counts once"


@pytest.mark.parametrize("attack", ["another key", "another model", "no purchase"])
def test_a_key_that_opens_no_purchase_of_this_model_changes_nothing(attack):
    agent = Node()
    bought, key = sealed_purchase(agent)
    before, expected = digest(agent.model()), digest(bought)
    if attack == "another key":
        key, complaint = new_key(), "the key does not open the sealed parameters"
    elif attack == "another model":
        expected, complaint = "0" * 64, "SHA-256 differs"
    else:
        del agent.context.state["sealed"]
        complaint = "no longer holds the purchase that the key opens"
    reply = agent.send("evaluate", {"model-digest": expected}, key=ConfigRecord({"key": key}))
    assert complaint in reply.error.reason
    assert digest(agent.model()) == before


def test_momentum_from_the_last_round_counts():
    """The second round depends on the memory of the optimiser."""
    remembering, forgetful = Node(momentum=0.9), Node(momentum=0.9)
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
def test_other_parameters_than_those_announced_are_refused(config, message):
    agent = Node()
    agent.send("train")
    before = digest(agent.model())
    records = {"arrays": ArrayRecord(agent.model())} if config.pop("send", False) else {}
    reply = agent.send("evaluate", config, **records)
    assert message in reply.error.reason
    assert digest(agent.model()) == before


def test_an_agent_s_own_options_come_from_its_node():
    agent = Node(prior="exponential(10)")
    agent.context.node_config["prior"] = "uniform(0, 1)"
    reply = agent.send("query.quote", quotes=ConfigRecord(to_columns([QuoteRequest("q", "all")])))
    assert from_columns(Ask, reply.content["asks"]) == [Ask("q", 500_000)]
    agent.context.node_config["fit-steps"] = 1
    assert "'fit-steps'" in agent.error("train")


def test_a_deployed_agent_s_own_options_do_not_come_from_the_broker():
    """The run's options set them in a simulation only."""
    run = {"prior": "uniform(0, 1)", "spending-limit": 9.0, "agent-dir": "/somewhere", "learning-rate": 0.5}
    simulated = Configuration.of_node(run, {"partition-id": 1, "num-partitions": 2})
    assert (simulated.agent.prior, simulated.agent.spending_limit, simulated.agent.agent_dir) == (
        "uniform(0, 1)",
        9.0,
        "/somewhere",
    )
    deployed = Configuration.of_node(run, {"partition-id": 1, "spending-limit": 2})
    assert (deployed.agent.prior, deployed.agent.spending_limit, deployed.agent.agent_dir) == (
        "exponential(10)",
        2.0,
        "",
    )
    assert deployed.training.learning_rate == 0.5, "training options are the run's unless the node sets them"
    assert Configuration.of_node(run, {"partition-id": 1, "learning-rate": 0.1}).training.learning_rate == 0.1
    for node, complaint in (
        ({}, "partition-id"),
        ({"partition-id": -1}, "partition-id"),
        ({"partition-id": 0, "spending-limt": 1.0}, "unknown option 'spending-limt'"),
        ({"partition-id": 0, "spending-limit": -1.0}, "spending-limit must be at least 0; got -1.0"),
        ({"partition-id": 0, "strategy": "fedavg"}, "unknown option 'strategy'"),
    ):
        with pytest.raises(MarketError, match=complaint):
            Configuration.of_node(run, node)


def test_a_node_without_a_number_is_told():
    agent = Node()
    del agent.context.node_config["partition-id"]
    assert "partition-id" in agent.error("train")
