"""The controls: each takes one part of the market away, and nothing else."""

from functools import partial

import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg

from clients.client_app import app
from fl_market.runner.engines import run_inline
from fl_market.runner.inline_grid import InlineGrid
from strategies.server_app import run_arm
from tests.played import TRAIN, SpiedGrid, broken, configured

pytestmark = pytest.mark.flower

SMALL = {"train_samples": 1500, "broker_samples": 600, "num_server_rounds": 4, "first_round": 2}


def final(**options):
    """Final test losses by agent, and the result."""
    result = run_inline(configured(**(SMALL | options)))
    return {name: agent.rounds[-1].test_loss for name, agent in result.agents.items()}, result


def test_siloed_tuned_is_siloed_until_the_broker_tunes():
    siloed, _ = final(strategy="siloed")
    late, _ = final(strategy="siloed-tuned", first_round=9)
    tuned, result = final(strategy="siloed-tuned")
    assert late == siloed
    assert all(tuned[name] < siloed[name] for name in siloed)
    assert result.trades == []
    assert result.initialisation == "independent"


def test_siloed_tuned_gives_an_agent_nothing_of_another():
    """A's result stays the same when B trains differently."""
    base, _ = final(strategy="siloed-tuned", agents=2, partition="halves")
    other, _ = final(strategy="siloed-tuned", agents=3, partition="halves")
    assert base["A"] == other["A"]


def test_a_tuned_model_without_a_certified_gain_is_not_taken():
    """Without steps there is no gain."""
    siloed, _ = final(strategy="siloed")
    untuned, _ = final(strategy="siloed-tuned", fit_steps=0)
    assert untuned == siloed


def test_broker_only_depends_on_no_agent():
    one, result = final(strategy="broker-only")
    other, _ = final(strategy="broker-only", learning_rate=0.01, scarce_share=0.5)
    assert len(set(one.values())) == 1
    assert one == other
    assert result.initialisation == "common"


def test_matched_averaging_ends_with_one_model_and_beats_plain_late_averaging():
    options = {"num_server_rounds": 6, "learning_rate": 0.1}
    matched, result = final(strategy="fedavg-matched", **options)
    plain, _ = final(strategy="fedavg-late", **options)
    assert matched["A"] == pytest.approx(matched["B"], rel=1e-5)
    assert matched["A"] < plain["A"]
    assert result.trading_from == 2


def test_the_placebo_seller_keeps_its_model_and_buys_nothing():
    siloed, _ = final(strategy="siloed", agents=3)
    placebo, result = final(strategy="market-placebo", agents=3)
    assert placebo["C"] == siloed["C"]
    assert "C" not in {deal.buyer for deal, _ in result.trades}
    assert result.trades, "the others trade"


def test_krum_takes_one_agent_s_model_and_not_the_odd_one():
    configuration = configured(strategy="krum", agents=4, num_server_rounds=1, train_samples=600, broker_samples=200)
    odd = broken(lambda state: [tensor.mul_(-3) for tensor in state.values()])

    def tamper(agent, message, reply):
        return odd(message, reply) if agent == "D" and message.metadata.message_type == TRAIN else reply

    grid = SpiedGrid(configuration, tamper)
    run_arm(grid, configuration)
    trained = {
        agent: reply.content["arrays"].to_torch_state_dict()
        for agent, message, reply in grid.seen
        if message.metadata.message_type == TRAIN
    }
    chosen = grid.contexts[1000].state["model"].to_torch_state_dict()["1.weight"]
    taken = [agent for agent, state in trained.items() if torch.allclose(state["1.weight"], chosen)]
    assert len(taken) == 1
    assert taken != ["D"]


@pytest.mark.parametrize(
    ("strategy", "flower"),
    [
        ("fedmedian", FedMedian),
        ("fedtrimmedavg", partial(FedTrimmedAvg, beta=1 / 3)),  # of three, the one in the middle
    ],
)
def test_robust_averages_equal_flowers_strategies(strategy, flower):
    configuration = configured(strategy=strategy, agents=3, num_server_rounds=2, train_samples=600, broker_samples=200)
    common = ArrayRecord(configuration.load_task().initial_model(0).state_dict())
    grid = InlineGrid(app, 3, configuration.to_mapping())
    metrics = flower().start(grid=grid, initial_arrays=common, num_rounds=2).evaluate_metrics_clientapp
    result = run_inline(configuration)
    mean = sum(agent.rounds[-1].test_loss for agent in result.agents.values()) / 3
    assert mean == pytest.approx(metrics[2]["test-loss"], rel=1e-5)
