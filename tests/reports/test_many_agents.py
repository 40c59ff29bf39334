"""Tables, pictures and files of many agents: the spread for reading, and a CSV with all."""

import csv
from dataclasses import replace

import matplotlib.image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_market.cli import main
from fl_market.reports.curves import draw_learning_curves
from fl_market.reports.progress import SECONDS_BETWEEN_LINES, _Plain
from fl_market.reports.results import AgentResult, ArmResult, RoundReport, RoundResult
from fl_market.reports.rounds import agents_csv, rounds_csv
from fl_market.reports.summary import MANY, SPREAD, spread, summarise
from fl_market.reports.table import results_table, seeds_table


def result(agents, arm="market", shift=0.0, own=False):
    """Agent number i reaches i percent."""
    tests = {
        f"{number:04}": tuple(
            RoundResult(entry, number / 100 + shift, 1.0 / number, number / 100 + (0.1 if own else 0) + shift)
            for entry in (1, 2)
        )
        for number in range(1, agents + 1)
    }
    return ArmResult(
        arm,
        "independent",
        2,
        {
            name: AgentResult(rounds, rounds_finished=2, paid=1_000_000, earned=500_000)
            for name, rounds in tests.items()
        },
        rounds=2,
        deals=3,
        offers=9,
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_spread_is_in_order(values):
    average, *quantiles = spread(values)
    assert quantiles == sorted(quantiles)
    assert (quantiles[0], quantiles[-1]) == (min(values), max(values))
    assert min(values) - 1e-9 <= average <= max(values) + 1e-9


def test_few_agents_are_named_and_many_are_not():
    few, many = results_table({"market": result(MANY - 1)}), results_table({"market": result(99)})
    assert "0001" in few
    assert "median" not in few
    assert "0001" not in many
    assert all(name in many for name in SPREAD)
    assert "50.00 │  1.00 │ 25.50 │  50.00 │ 74.50 │ 99.00" in many
    assert {"99.000", "49.500"} <= set(many.split()), "sums of what was paid and earned"
    assert max(map(len, many.splitlines())) <= 160


def test_own_targets_of_many_agents_have_a_spread_too():
    table = results_table({"market": result(99, own=True)}).replace("\n", "")
    assert "60.00" in table
    assert "11.00" in table


def test_failures_of_many_agents_are_counted():
    failing = result(10)
    failing.agents["0001"] = AgentResult(failing.agents["0001"].rounds, rounds_finished=1, failed_replies=4)
    table = results_table({"market": failing})
    assert "1 to 2 of 2" in table
    assert "4" in table


def test_the_spread_over_agents_has_a_deviation_over_seeds():
    by_seed = {0: {"market": result(9)}, 1: {"market": result(9, shift=0.02)}}
    assert summarise(by_seed)["market"]["spread"]["worst"]["mean"] == 0.02
    table = seeds_table(by_seed)
    assert "2.00 ± 1.41" in table
    assert "10.00 ± 1.41" in table
    assert "0001" not in table


def test_the_files_have_every_agent():
    arms = {"siloed": result(9, "siloed"), "market": result(12)}
    tests, accounts = (list(csv.DictReader(make(arms).splitlines())) for make in (rounds_csv, agents_csv))
    assert (len(tests), len(accounts)) == (2 * 21, 21)
    assert tests[-1] == {
        "arm": "market",
        "agent": "0012",
        "round": "2",
        "test_accuracy": "0.12",
        "test_loss": str(1 / 12),
        "target_accuracy": "0.12",
    }
    assert (accounts[-1]["paid"], accounts[-1]["earned"]) == ("1000000", "500000")


def test_a_picture_of_many_agents_has_one_line_for_each_arm(tmp_path, monkeypatch):
    labels = []
    monkeypatch.setattr(
        "fl_market.reports.curves.save_figure",
        lambda figure, path: labels.extend(line.get_label() for line in figure.axes[0].lines),
    )
    draw_learning_curves({"market": result(99), "siloed": result(3, "siloed")}, tmp_path / "x.png")
    assert labels == ["market", "siloed, 0001", "siloed, 0002", "siloed, 0003"]


def test_a_single_test_is_seen(tmp_path):
    """A line through one point is none: what is drawn must change the picture."""

    def picture(test, agents):
        found = result(agents)
        for name, agent in found.agents.items():
            found.agents[name] = AgentResult(tuple(replace(entry, round=1) for entry in agent.rounds[:test]))
        return mean_color(draw_learning_curves({"market": found}, tmp_path / f"{test}-{agents}.png"))

    for agents in (2, 30):
        assert picture(1, agents) != pytest.approx(picture(0, agents), abs=1e-5)


def mean_color(path):
    """Return the share of blue in the left half of a picture, where no legend is."""
    pixels = matplotlib.image.imread(path)[:, : 11 * 50]
    return float((pixels[:, :, 2] - pixels[:, :, 0]).clip(0).mean())


def test_a_run_writes_the_files_and_the_next_one_replaces_them(tmp_path, capsys):
    options = ["--arms", "siloed", "--rounds", "1", "--agents", "9", "--quiet", "--out", str(tmp_path)]
    assert main(["compare", *options]) == 0
    assert "median" in capsys.readouterr().out
    assert len((tmp_path / "rounds.csv").read_text().splitlines()) == 10
    assert main(["compare", *options]) == 1
    assert main(["compare", *options, "--overwrite"]) == 0


def test_long_rounds_say_how_far_they_are(capsys):
    time = [0.0]
    plain = _Plain(lambda: time[0])
    for done in range(1, 101):
        plain.trials(done, 100)
        time[0] += SECONDS_BETWEEN_LINES / 4
    plain.round(RoundReport("market", 1, 1, 5, 0.5))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  trials of 5 of 100 buyers done, about 8 minutes left"
    assert len(lines) == 25
    assert "round 1/1, 5 deals, accuracy 50.0 %" in lines[-1]
    plain.round(RoundReport("market", 2, 2, 5, float("nan")))
    assert capsys.readouterr().err == "market: round 2/2, 5 deals\n", "a round without a test"
    plain.trials(1, 2)
    plain.trials(2, 2)
    assert capsys.readouterr().err == "", "a short round says nothing"
