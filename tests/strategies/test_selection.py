"""Scores of the final models on the broker's data."""

from dataclasses import replace

import pytest
import torch

from clients.agent_data import load_agent_data
from fl_market.configuration import Configuration
from fl_market.gains import ModelLoss, Profile, split_in_halves
from fl_market.hardware import CPU
from fl_market.runner.engines import run_inline
from strategies.selection import FinalModel, score_models
from strategies.server_app import run_arm
from tests.played import EVALUATE, SpiedGrid, configured

pytestmark = pytest.mark.flower

SMALL = {"train_samples": 600, "broker_samples": 400, "learning_rate": 0.1, "num_server_rounds": 2, "first_round": 2}


@pytest.mark.parametrize("strategy", ["siloed", "fedavg", "fedavg-local", "fedala", "fedavg-late", "market"])
def test_the_scores_are_those_of_the_models_that_the_agents_hold(strategy):
    configuration = configured(strategy=strategy, **SMALL)
    grid = SpiedGrid(configuration)
    result = run_arm(grid, configuration)
    task = configuration.load_task()
    _, certify = split_in_halves(task.broker, configuration.run.seed)
    loss = ModelLoss(task.build_model(), task.criterion)
    for context, name in zip(grid.contexts.values(), "AB", strict=True):
        model = context.state["model"].to_torch_state_dict()
        expected = float(loss(model, certify).mean())
        assert result.agents[name].broker_loss == pytest.approx(expected, rel=1e-5)
        assert 0 < result.agents[name].broker_accuracy < 1


def test_the_selection_never_reads_the_test_set(monkeypatch):
    """With another test set, the tests differ and the scores do not."""
    configuration = Configuration.of(strategy="siloed-tuned", **SMALL)
    before = run_inline(configuration)
    task = configuration.load_task()
    inputs, targets = task.test
    shuffled = replace(task, test=(inputs, targets.roll(1)))
    monkeypatch.setattr(Configuration, "load_task", lambda self, *party: shuffled)
    load_agent_data.cache_clear()
    after = run_inline(configuration)
    load_agent_data.cache_clear()
    for name in "AB":
        assert before.agents[name].broker_loss == after.agents[name].broker_loss
        assert before.agents[name].rounds != after.agents[name].rounds


def test_an_own_objective_weighs_the_classes():
    configuration = Configuration.of(**SMALL)
    task = configuration.load_task()
    _, certify = split_in_halves(task.broker, 0)
    state = task.initial_model(0).state_dict()
    weights = (0.0, 0.0, 1.0, *(0.0,) * 7)
    models = {
        "A": FinalModel(state),
        "B": FinalModel(state, Profile(class_weights=weights)),
        "C": FinalModel(state, Profile(class_weights=(1.0,))),
        "D": FinalModel({"1.weight": torch.zeros(1)}),
        "E": FinalModel(state, Profile(labels=(3, 99))),
    }
    scores = score_models(models, task, certify, seed=0, hardware=CPU)
    assert set(scores) == {"A", "B"}, "invalid profiles and models have no score"
    losses = ModelLoss(task.build_model(), task.criterion)(state, certify)
    assert scores["A"].loss == pytest.approx(float(losses.mean()), rel=1e-5)
    assert scores["B"].loss == pytest.approx(float(losses[certify[1] == 2].mean()), rel=1e-5)


def test_an_agent_with_local_privacy_returns_no_exact_model():
    configuration = configured(strategy="fedavg-local", local_privacy="gaussian(5.0, 0.00001, 8, 0.00001)", **SMALL)
    grid = SpiedGrid(configuration)
    run_arm(grid, configuration)
    replies = [reply for _, message, reply in grid.seen if message.metadata.message_type == EVALUATE]
    assert replies
    assert all("arrays" not in reply.content for reply in replies)
