"""Incentives that are known from theory come out of the played market."""

import numpy as np
import pytest

from fl_market.benchmarks import incentives
from fl_market.benchmarks.incentives import HONEST, Behaviour, play
from fl_market.pricing import PricingRule, posted
from fl_market.seeds import numpy_generator


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(incentives, "AGENTS", 6)
    monkeypatch.setattr(incentives, "ROUNDS", 12)


def earned(rule, behaviour, runs=4):
    return np.mean(
        [play(rule, behaviour, numpy_generator(run, "test")).earned(behaviour.agents) for run in range(runs)]
    )


def test_a_posted_price_is_truthful_for_buyers_and_sellers():
    rule = posted(250_000)
    for behaviour in (Behaviour(bid=0.5), Behaviour(bid=0.9), Behaviour(ask=20.0)):
        assert earned(rule, behaviour) < earned(rule, HONEST)


def test_money_is_neither_made_nor_lost():
    """What all earn is what trade is worth to them less the costs, whatever the prices are."""
    for rule in (incentives.parse_rule("free"), posted(250_000)):
        for behaviour in (HONEST, Behaviour(bid=0.7), Behaviour(trains=False)):
            found = play(rule, behaviour, numpy_generator(0, "test"))
            training = incentives.COST_OF_TRAINING * (6 - behaviour.agents * (not behaviour.trains)) * 12
            assert found.earnings.sum() == pytest.approx(found.traded - training)
            assert 0 < found.traded <= found.possible


def test_free_parameters_are_taken_by_whoever_does_not_train():
    free = incentives.parse_rule("free")
    assert earned(free, Behaviour(trains=False)) > earned(free, HONEST)
    assert play(free, HONEST, numpy_generator(0, "test")).efficiency == pytest.approx(1, abs=0.05)


def test_a_bid_is_paid_where_the_rule_takes_it():
    """Under a first price, shading pays; the market must not hide that."""
    first = PricingRule("first", asks=True, price=lambda bid, ask: bid if bid >= ask else None)
    assert earned(first, Behaviour(bid=0.9)) > earned(first, HONEST)


def test_the_report_names_every_behaviour(tmp_path, monkeypatch):
    monkeypatch.setattr(incentives, "RULES", ("free", "posted(0.25)"))
    monkeypatch.setattr(incentives, "ROUNDS", 3)
    table = incentives.incentives(str(tmp_path), runs=2, report=lambda line: None)
    assert all(name[:12] in table for name in incentives.BEHAVIOURS)
    assert {path.name for path in tmp_path.iterdir()} == {"incentives.json", "incentives.png"}
