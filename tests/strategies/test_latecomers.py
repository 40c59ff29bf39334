"""Agents that join after the first round, and trade that ends before the last."""

import pytest

from fl_market.configuration import Configuration
from fl_market.errors import OptionError
from fl_market.runner.engines import run_inline
from strategies.server_app import run_arm
from tests.played import TRAIN, SpiedGrid, configured

pytestmark = pytest.mark.flower

SMALL = {"train_samples": 600, "broker_samples": 200, "learning_rate": 0.1, "batch_size": 8}


@pytest.mark.parametrize("strategy", ["fedavg", "siloed", "fedala", "market"])
def test_an_agent_that_joins_later_is_not_asked_before(strategy):
    configuration = configured(
        strategy=strategy, agents=3, num_server_rounds=4, first_round=2, joins="1;1;3", partition="even", **SMALL
    )
    grid = SpiedGrid(configuration)
    result = run_arm(grid, configuration)
    assert len(grid.sent(TRAIN, "C")) == 2
    assert result.agents["C"].rounds_finished == 2
    assert [entry.round for entry in result.agents["C"].rounds] == [3, 4]
    assert result.agents["A"].rounds_finished == 4
    assert not any(agent.failed_replies for agent in result.agents.values())


@pytest.mark.parametrize("strategy", ["market", "fedavg-late"])
def test_after_the_last_round_of_trade_agents_train_alone(strategy):
    options = {"num_server_rounds": 4, "first_round": 2, **SMALL}
    once = run_inline(Configuration.of(strategy=strategy, last_round=2, **options))
    more = run_inline(Configuration.of(strategy=strategy, **options))
    for name in "AB":
        assert once.agents[name].rounds[:2] == more.agents[name].rounds[:2]
        assert once.agents[name].rounds[2:] != more.agents[name].rounds[2:]
    assert {deal.round for deal, _ in once.trades} <= {2}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"joins": "1;0"}, "joins must be rounds of at least 1; got '1;0'"),
        ({"joins": "2"}, "joins must be rounds up to num-server-rounds, 20, and 1 for some agent; got '2'"),
        ({"joins": "1;21"}, "joins must be rounds up to num-server-rounds, 20"),
        ({"last_round": 4}, "last-round must be at least 5, the first round of trading, or 0; got 4"),
    ],
)
def test_impossible_rounds_are_named(options, complaint):
    with pytest.raises(OptionError, match=complaint):
        Configuration.of(**options)
