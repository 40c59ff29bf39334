"""The broker's memory in a small market, and the stand-in for its agents."""

import json

import pytest

from fl_market.benchmarks import memory
from fl_market.benchmarks.memory import Case, peak_of
from fl_market.cli import main
from fl_market.errors import MarketError


def test_a_round_is_played_with_deals_and_its_memory_is_seen(tmp_path):
    few, many = (peak_of(Case(agents, 1_000_000), tmp_path) for agents in (3, 9))
    assert few.deals
    assert many.deals > few.deals
    assert few.highest > few.start
    assert many.highest - many.start < (few.highest - few.start) + 4 * many.model, "not nine models more"
    assert not list(tmp_path.iterdir()), "the models are gone"


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    assert main(["bench", "memory", "--agents", "2", "--parameters", "2000", "--out", str(tmp_path / "m")]) == 0
    shown = capsys.readouterr().out
    (peak,) = json.loads((tmp_path / "m" / "memory.json").read_text())["peaks"]
    assert f"{peak['copies of the model']:.1f} models" in shown
    assert peak["case"]["agents"] == 2


def test_other_systems_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "missing")
    with pytest.raises(MarketError, match="bench memory needs Linux"):
        memory.memory(str(tmp_path / "m"))
