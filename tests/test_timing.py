"""Where the time goes."""

import json
from time import sleep

import pytest

from fl_market import timing
from fl_market.cli import main
from fl_market.timing import REST, measured, timed


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_a_part_does_not_contain_the_parts_inside_it(clock):
    @timed("inner")
    def inner():
        clock(3)

    with measured() as timings:
        clock(1)
        with timed("outer"):
            clock(2)
            inner()
            inner()
        with timed("outer"):
            clock(5)
    assert timings.seconds == {"outer": 7, "inner": 6, REST: 1}
    assert timings.calls == {"outer": 2, "inner": 2, REST: 1}


def test_a_part_that_raises_is_counted(clock):
    with measured() as timings, pytest.raises(ValueError, match="no"), timed("outer"), timed("inner"):
        clock(2)
        raise ValueError("no")
    assert timings.seconds["inner"] == 2
    assert timings.seconds["outer"] == 0


def test_without_a_measurement_nothing_is_kept():
    with timed("part"):
        sleep(0)
    with measured() as timings:
        pass
    assert set(timings.seconds) == {REST}


@pytest.mark.flower
@pytest.mark.parametrize("asked", [True, False])
def test_a_run_shows_and_keeps_its_timings(tmp_path, capsys, asked):
    arguments = ["run", "--engine", "inline", "--rounds", "2", "--first-round", "1", "--out", str(tmp_path / "run")]
    assert main([*arguments, *["--timings"] * asked]) == 0
    (arm,) = json.loads((tmp_path / "run" / "results.json").read_text())["arms"].values()
    shown = capsys.readouterr().out
    assert ("Where the time went" in shown) == asked
    assert ("timings" in arm) == asked
    if asked:
        parts = arm["timings"]
        assert {"training", "fitting", "certification", "alignment", "service", "ledger", "checkpoints"} <= set(parts)
        assert sum(part["seconds"] for part in parts.values()) == pytest.approx(arm["seconds"], rel=0.05)
        assert parts["training"]["calls"] == 2 * 2, "each agent in each round"
