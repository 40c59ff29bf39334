import pickle
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from fl_market.configuration import GROUPS, OPTIONS, PRIVATE_OPTIONS, TRAINING_OPTIONS, Configuration
from fl_market.errors import OptionError
from fl_market.market.terms import Terms
from fl_market.options import Option, options_of
from fl_market.pricing import ask
from fl_market.tasks.resnet import NORMS

ROOT = Path(__file__).resolve().parents[1]


def test_pyproject_holds_the_same_defaults():
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert document["tool"]["flwr"]["app"]["config"] == Configuration().to_mapping()


def test_there_and_back():
    configuration = Configuration.of(seed=3, prior="uniform(0, 1)", common_init=True, task="digits-vit")
    assert configuration.task.name == "digits-vit"
    assert (configuration.run.seed, configuration.agent.prior) == (3, "uniform(0, 1)")
    assert Configuration.from_mapping(configuration.to_mapping()) == configuration
    assert configuration.with_options(seed=0).run.seed == 0
    assert pickle.loads(pickle.dumps(configuration)) == configuration


def test_every_option_has_one_declaration():
    """A group has nothing else that a user could set, and no two groups declare one key."""
    declared = [(name, option) for name, group in GROUPS.items() for option in options_of(group)]
    assert len(declared) == len(OPTIONS)
    flags = [flag for _, option in declared for flag in option.flags]
    assert len(flags) == len(set(flags))
    assert {field.name for group in GROUPS.values() for field in fields(group)} == {
        *(option.name for _, option in declared),
        "granularity",  # the arms' choice
    }


def test_choices_are_those_of_the_rooms_that_use_them():
    """The declarations cannot import these rooms: help would wait for torch."""
    assert OPTIONS["norm"][1].choices == tuple(NORMS)


def test_whose_options():
    assert {"profile", "labels", "prior", "valuation", "local-privacy", "device", "data-dir"} < set(PRIVATE_OPTIONS)
    assert set(TRAINING_OPTIONS) == {
        *("local-epochs", "batch-size", "optimiser", "learning-rate", "momentum", "augment"),
    }
    assert not {"seed", "pricing", "endowment", "agents"} & {*PRIVATE_OPTIONS, *TRAINING_OPTIONS}


@pytest.mark.parametrize(
    ("common_init", "first_round", "expected"), [(False, 0, 5), (True, 0, 1), (False, 3, 3), (True, 7, 7)]
)
def test_when_trading_starts(common_init, first_round, expected):
    assert Configuration.of(common_init=common_init, first_round=first_round).trading_starts == expected


@pytest.mark.parametrize(
    ("bounds", "limits", "accepted", "refused"),
    [
        ({}, "", [-1e300, 0.0], [float("nan"), float("inf")]),
        ({"minimum": 0}, "at least 0", [0, 5], [-1e-9, float("nan")]),
        ({"above": 0}, "above 0", [1e-9], [0, -1]),
        ({"minimum": 0, "below": 1}, "in [0, 1)", [0, 0.99], [1, -0.1]),
        ({"above": 0, "maximum": 1}, "in (0, 1]", [1, 0.01], [0, 1.01]),
    ],
)
def test_ranges(bounds, limits, accepted, refused):
    option = Option("x", 0.5, "a number", key="x", **bounds)
    assert option.limits == limits
    for value in accepted:
        option.validate(value)
    for value in refused:
        with pytest.raises(OptionError, match="x must be "):
            option.validate(value)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"speed": 1}, "unknown option 'speed'; known are .*seed"),
        ({"task": "chess"}, "unknown task 'chess'; known are mnist-mlp"),
        ({"strategy": "gossip"}, "unknown arm 'gossip'; known are siloed"),
        ({"agents": 1}, r"agents must be in \[2, 1000\]; got 1"),
        ({"agents": "two"}, "agents must be of type int; got 'two'"),
        ({"seed": True}, "seed must be of type int; got True"),
        ({"num-server-rounds": 0}, "num-server-rounds must be at least 1; got 0"),
        ({"learning-rate": 0.0}, "learning-rate must be above 0; got 0.0"),
        ({"learning-rate": float("nan")}, "learning-rate must be above 0; got nan"),
        ({"confidence": 1}, r"confidence must be in \(0, 1\); got 1.0"),
        ({"gain": "total"}, "gain must be one of relative, difference; got 'total'"),
        ({"prior": "normal(0, 1)"}, "unknown prior"),
        ({"prior": "uniform(1, 0)"}, "the prior 'uniform\\(1, 0\\)' is invalid: .*0 <= low < high"),
        ({"pricing": "split"}, "the pricing rule 'split' lacks its numbers; known are nash"),
        ({"partition": "shards(1.5)"}, "must have a whole number for shards; got 1.5"),
        ({"endowment": -1.0}, "endowment must be at least 0; got -1.0"),
        ({"endowment": 1e300}, "endowment is invalid: .* at most"),
        ({"profile": "best"}, "profile must be common, own, or classes .*; got 'best'"),
        ({"validation-samples": 199}, "validation-samples must be 0 or at least 200, half of which certify; got 199"),
        ({"fit-samples": 1}, "fit-samples must be 0 or at least 2; got 1"),
        ({"split-seed": -2}, "split-seed must be at least -1; got -2"),
        ({"labels": "0,1;2"}, "labels must be two or more classes .*; got '0,1;2'"),
        ({"labels": "0,1;2,3", "common-init": True}, "common-init must be false with labels"),
        (
            {"disclosure": "paper", "gain": "difference"},
            "gain must be relative with disclosure paper; got 'difference'",
        ),
    ],
)
def test_bad_options_are_named(options, complaint):
    with pytest.raises(OptionError, match=complaint):
        Configuration.from_mapping(options)


def test_terms_take_objects_that_no_other_process_can_be_told():
    configuration = Configuration.of(pricing=ask)
    assert configuration.market.rule is ask
    assert Terms(pricing="split(0.5)").rule.price(90, 30) == 60
    with pytest.raises(OptionError, match="pricing must be text, to be sent to other processes; got PricingRule"):
        configuration.to_mapping()
    with pytest.raises(OptionError, match="is not a fl_market"):
        Terms(pricing=3)


def test_an_agents_machine_needs_no_file_of_the_brokers_plugins():
    run = dict.fromkeys(("strategy", "merge", "alignment", "pricing"), "/nowhere/own.py:thing")
    with pytest.raises(OptionError, match="cannot be run"):
        Configuration.from_mapping(run)
    assert Configuration.of_node(run, {"partition-id": 0}) == Configuration()
    with pytest.raises(OptionError, match="cannot be run"):
        Configuration.of_node(run, {"partition-id": 0, "learn-prior": True})


def test_only_some_options_may_change_when_a_run_is_resumed():
    known = Configuration.of(seed=3)
    known.check_resumable(known.with_options(num_server_rounds=30, resume="runs/first", reply_timeout=1.0))
    with pytest.raises(OptionError, match=r"learning-rate must be 0\.01; got 0\.1 \(a resumed run keeps its options"):
        known.check_resumable(known.with_options(learning_rate=0.1))
