import tomllib
from pathlib import Path

import pytest

from fl_market.configuration import Configuration
from fl_market.errors import MarketError

ROOT = Path(__file__).resolve().parents[1]


def test_pyproject_holds_the_same_defaults():
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert document["tool"]["flwr"]["app"]["config"] == Configuration().to_mapping()


def test_there_and_back():
    configuration = Configuration(seed=3, prior="uniform(0, 1)", common_init=True)
    assert Configuration.from_mapping(configuration.to_mapping()) == configuration


@pytest.mark.parametrize(
    ("common_init", "first_round", "expected"), [(False, 0, 5), (True, 0, 1), (False, 3, 3), (True, 7, 7)]
)
def test_when_trading_starts(common_init, first_round, expected):
    assert Configuration(common_init=common_init, first_round=first_round).trading_starts == expected


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"speed": 1}, "unknown option 'speed'; accepted are .*seed"),
        ({"task": "chess"}, "task cannot be 'chess'; accepted is one of .*mnist-mlp"),
        ({"agents": 1}, "agents cannot be 1; accepted is 2"),
        ({"agents": "two"}, "agents cannot be 'two'; accepted is a value of type int"),
        ({"seed": True}, "seed cannot be True"),
        ({"num-server-rounds": 0}, "num-server-rounds cannot be 0"),
        ({"learning-rate": 0.0}, "learning-rate cannot be 0.0"),
        ({"learning-rate": float("nan")}, "learning-rate cannot be nan"),
        ({"confidence": 1}, "confidence cannot be 1.0"),
        ({"gain": "total"}, "gain cannot be 'total'"),
        ({"prior": "normal(0, 1)"}, "unknown prior"),
        ({"endowment": -1.0}, "endowment cannot be -1.0"),
        ({"endowment": 1e300}, "at most"),
    ],
)
def test_bad_options_are_named(options, complaint):
    with pytest.raises(MarketError, match=complaint):
        Configuration.from_mapping(options)
