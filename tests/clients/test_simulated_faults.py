"""Agents with a simulated fault: what they train on, and what they send."""

import pytest
import torch

from clients.agent_data import load_agent_data
from clients.simulated_faults import REVERSED
from fl_market.configuration import Configuration
from fl_market.errors import OptionError
from fl_market.runner.agents import check_agents
from strategies.server_app import run_arm
from tests.played import TRAIN, SpiedGrid, configured

pytestmark = pytest.mark.flower

SMALL = {"train_samples": 600, "broker_samples": 200, "learning_rate": 0.1}


def trained_by(fault, strategy="fedavg", rounds=1, **options):
    """Return what B sent, round by round, with the options and the result."""
    configuration = configured(strategy=strategy, num_server_rounds=rounds, faults=f"none;{fault}", **SMALL, **options)
    grid = SpiedGrid(configuration)
    result = run_arm(grid, configuration)
    sent = [reply for name, message, reply in grid.seen if (name, message.metadata.message_type) == ("B", TRAIN)]
    return [reply.content["arrays"].to_torch_state_dict() for reply in sent], configuration, result


def test_random_labels_change_the_targets_of_one_agent_alone():
    configuration = Configuration.of(faults="none;random-labels", **SMALL)
    check_agents(configuration)
    honest, faulty = (load_agent_data(configuration.of_agent(index), index) for index in (0, 1))
    task = configuration.load_task()
    assert torch.equal(honest.training[1], task.agents[0][1])
    assert torch.equal(faulty.training[0], task.agents[1][0])
    kept = (faulty.training[1] == task.agents[1][1]).float().mean()
    assert 0.02 < float(kept) < 0.25
    assert set(faulty.training[1].tolist()) == set(range(10))
    assert configuration.honest_agents == ("A",)


def test_the_copies_differ_as_their_names_say():
    honest, configuration, _ = trained_by("none")
    task = configuration.load_task()
    start = task.initial_model(configuration.run.seed).state_dict()
    flipped, *_ = trained_by("sign-flip")
    for name, tensor in honest[0].items():
        expected = start[name] - REVERSED * (tensor - start[name])
        torch.testing.assert_close(flipped[0][name], expected)
    noise, *_ = trained_by("noise")
    weights = noise[0]["1.weight"]
    assert not torch.allclose(weights, honest[0]["1.weight"], atol=0.01)
    assert float(weights.std()) == pytest.approx(float(honest[0]["1.weight"].std()), rel=0.05)
    untrained, *_ = trained_by("untrained")
    assert not torch.equal(untrained[0]["1.weight"], start["1.weight"])


def test_a_faulty_seller_keeps_its_own_model_and_answers_every_round():
    sent, _, result = trained_by("untrained", "market", rounds=3, first_round=2, batch_size=8)
    assert all(torch.equal(sent[0]["1.weight"], later["1.weight"]) for later in sent[1:])
    assert result.complete
    assert result.agents["B"].rounds[-1].test_accuracy > 0.3, "its own model is trained"


def test_a_run_s_option_gives_no_agent_a_fault_in_a_deployment():
    run = Configuration.of(faults="noise").to_mapping()
    assert Configuration.of_node(run, {"partition-id": 0}).agent.faults == "none"
    assert Configuration.of_node(run, {"partition-id": 0, "num-partitions": 2}).agent.faults == "noise"


def test_an_unknown_fault_is_named():
    with pytest.raises(OptionError, match=r"faults must be of none, random-labels, .*; got 'lies'"):
        Configuration.of(faults="none;lies")
