"""``experiment scenarios|labels|late``: rows, tuned learning rates, files and tables."""

import json
from statistics import mean

import pytest

from fl_market.cli import main
from fl_market.configuration import Configuration
from fl_market.errors import MarketError
from fl_market.experiments import labels, late, scenarios, tuning
from fl_market.experiments.outcomes import missed_rounds
from fl_market.experiments.scenarios import ARMS, MARKET, goal, rank
from fl_market.experiments.studies import run_study
from fl_market.experiments.tuning import PUBLISHED, TUNED, TUNING_SEED, Rates, Row, Study, tuned
from fl_market.naming import agent_name
from fl_market.runner import cells as cells_module
from fl_market.runner.engines import run_inline
from strategies.arms import ARMS as KNOWN_ARMS

BEST_RATE = 0.1


def invented(cell):
    """Return a result as a run's, best at one learning rate; the test set says the reverse."""
    miss = abs(cell.training.learning_rate - BEST_RATE) + abs(cell.market.tuning_learning_rate - 0.01)
    bonus = 0.02 * (cell.run.strategy == MARKET) + 0.001 * cell.run.seed
    rounds = [number for number in range(1, cell.run.num_server_rounds + 1) if cell.tests_in(number)]

    def agent(name):
        lower = 0.0 if name in cell.honest_agents else 0.5
        tested = 0.5 + miss / 10 + bonus * (cell.run.seed != TUNING_SEED) - lower
        return {
            "test_accuracy": tested,
            "target_accuracy": tested,
            "rounds_finished": cell.run.num_server_rounds - cell.joins[name] + 1,
            "broker_accuracy": 0.9 - miss / 10 - lower,
            "broker_loss": miss,
            "rounds": [{"round": number, "target_accuracy": tested * number / rounds[-1]} for number in rounds],
        }

    return {"agents": {agent_name(index): agent(agent_name(index)) for index in range(cell.run.agents)}}


@pytest.fixture
def computed(monkeypatch):
    """Invent the results of all cells, and keep the cells."""
    seen = []

    def run_cells(cells, folder, **options):
        assert options["unfinished"]
        seen.extend(cells)
        return [invented(cell) for cell in cells]

    monkeypatch.setattr(tuning, "run_cells", run_cells)
    return seen


def test_every_arm_has_as_many_candidates_of_one_grid():
    for rates in (Rates(), *late.RATES.values()):
        counts = {arm: len(rates.candidates(arm)) for arm in KNOWN_ARMS}
        assert set(counts.values()) == {4}
        for arm in KNOWN_ARMS:
            for candidate in rates.candidates(arm):
                assert candidate.get("learning_rate", rates.local[0]) in rates.local
                assert candidate.get("tuning_learning_rate", rates.tuning[0]) in rates.tuning


def test_scenarios_tune_each_arm_and_rank_them(tmp_path, computed):
    table = run_study("scenarios", str(tmp_path), Study("quick", "", (0, 1)))
    document = json.loads((tmp_path / "scenarios.json").read_text())
    assert len(document["scenarios"]) == 10
    for name, found in document["scenarios"].items():
        left_out = {"market-fine"} if name == "ten-agents" else set()
        assert list(found["arms"]) == [arm for arm in ARMS if arm not in left_out]
        for arm, cell in found["arms"].items():
            assert cell["learning rates"].get("learning_rate", BEST_RATE) == BEST_RATE, (name, arm)
            assert cell["learning rates"].get("tuning_learning_rate", 0.01) == 0.01
            assert len(cell["candidates"]) == 4
            assert cell[TUNED]["mean"] == pytest.approx(mean(cell[TUNED]["by seed"]))
            assert cell[TUNED]["std"] == pytest.approx(0.001 / 2**0.5)
    poisoned = document["scenarios"]["poisoned"]["arms"]["fedavg"]
    assert set(poisoned[TUNED]["agents"]) == {"A", "B", "C"}, "honest agents are scored"
    assert document["goal"]["scenarios"] == 10
    assert (tmp_path / "scenarios.png").read_bytes().startswith(b"\x89PNG")
    assert PUBLISHED in table
    assert "rounds finished" not in table, "an agent that joins later missed nothing"
    # per row: four candidates of one seed, two published and two tuned runs
    assert len(computed) == (10 * len(ARMS) - 1) * (4 + 2 + 2)
    assert {cell.run.seed for cell in computed} == {0, 1, TUNING_SEED}


def test_the_scenarios_are_as_their_titles_say():
    rounds = 10
    known = scenarios.scenarios(rounds)

    def cell(name, arm):
        row = Row(arm, {**scenarios.SETTINGS["quick"], **known[name].options_of(arm)})
        return Study("quick", "").cell(row, 0)

    joiner = cell("late-joiners", "market")
    assert joiner.joins == {"A": 1, "B": 1, "C": 6, "D": 6}
    assert cell("late-meeters", "market").trading_starts == 6
    assert cell("late-meeters", "fedavg").run.num_server_rounds == 5, "from the meeting on"
    assert cell("late-meeters", "fedavg-late").run.num_server_rounds == 10
    assert cell("random-labels", "krum").honest_agents == ("A", "B")
    # an arm of one model has the data and the tests of agents with heads of their own
    own, common = cell("label-spaces", "siloed"), cell("label-spaces", "fedavg")
    for index in range(2):
        spaces = [configuration.of_agent(index) for configuration in (own, common)]
        assert spaces[0].agent.labels == spaces[1].agent.profile
        sizes = [len(load(configuration, index)[0]) for configuration in spaces]
        assert sizes[0] == sizes[1] > 0


def load(configuration, index):
    from clients.agent_data import load_agent_data

    return load_agent_data(configuration, index).training


@pytest.mark.flower
@pytest.mark.parametrize(
    ("name", "arm"),
    [
        ("label-spaces", "siloed-tuned"),
        ("label-spaces", "fedavg-local"),
        ("late-meeters", "krum"),
        ("own-purposes", "fedavg-tuned"),
    ],
)
def test_rows_with_options_of_their_own_run(name, arm):
    small = {"num_server_rounds": 3, "first_round": 2, "train_samples": 300, "broker_samples": 200, "fit_steps": 2}
    row = Row(arm, {**scenarios.SETTINGS["quick"], **small, **scenarios.scenarios(3)[name].options_of(arm)})
    result = run_inline(Study("quick", "").cell(row, 0, learning_rate=0.1)).as_json()
    assert all(0 <= agent["broker_accuracy"] <= 1 for agent in result["agents"].values())
    assert all(agent["target_accuracy"] is not None for agent in result["agents"].values())


def test_the_market_is_compared_with_every_other_arm():
    found = rank({"fedavg": 0.8, "market-fine": 0.9, MARKET: 0.85})
    assert found["best"] == found["best other"] == "market-fine"
    assert found["best without a market"] == "fedavg"
    assert found["market minus best without a market"] == pytest.approx(0.05)
    distances = {str(value): {"market minus best other": value} for value in (0.02, 0.01, 0.0, -0.004, -0.006)}
    assert goal(distances) == {
        "scenarios": 5,
        "within 0.5 points of the best other arm": 4,
        "best by 1 point or more": 2,
    }


def test_labels_and_late_write_what_they_print(tmp_path, computed):
    table = run_study("labels", str(tmp_path), Study("quick", "", (0,), only=("50", "2500")))
    document = json.loads((tmp_path / "labels.json").read_text())
    assert {arm: list(some) for arm, some in document["fit samples"].items()} == {
        arm: ["50", "2500"] for arm in labels.ARMS
    }
    assert {cell.run.fit_samples for cell in computed} == {50, 2500}
    assert table.count("*") == 3  # in each column, and in the title

    computed.clear()
    table = run_study("late", str(tmp_path), Study("full", "", (0,), only=("resnet", "perceptron")))
    document = json.loads((tmp_path / "late.json").read_text())
    market = document["networks"]["perceptron"]["arms"]["market"][TUNED]
    assert market[late.FIRST]["mean"] == pytest.approx(market[late.END]["mean"] / 2)
    assert {cell.run.last_round for cell in computed} == {0, 30}
    as_published = [cell for cell in computed if cell.market.certificate == "published"]
    assert {cell.run.last_round for cell in as_published} == {0, 30}, "one purchase too has the published terms"
    assert not {cell.run.seed for cell in as_published} & {TUNING_SEED}
    assert {cell.training.optimiser for cell in computed if cell.task.name != "mnist-mlp"} == {"adam"}
    for moment in late.MOMENTS:
        assert moment in table
    for name in ("labels", "late"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_candidate_without_a_model_is_never_chosen():
    study, row = Study("quick", ""), Row("fedavg", {"agents": 2})

    def results(**best):
        found = {}
        for candidate in row.candidates:
            cell = study.cell(row, TUNING_SEED, **candidate)
            score = best.get(str(candidate["learning_rate"]), (None, None))
            agents = {name: {"broker_accuracy": score[0], "broker_loss": score[1]} for name in "AB"}
            found[cell] = {"agents": agents}
        return found

    assert tuned(row, study, results(**{"0.3": (0.1, 9.0)}))[0] == {"learning_rate": 0.3}
    tie = {"0.1": (0.5, 2.0), "0.3": (0.5, 1.0), "0.6": (0.4, 0.1)}
    assert tuned(row, study, results(**tie))[0] == {"learning_rate": 0.3}, "of equal accuracies, the lower loss"


def test_a_run_whose_models_diverge_is_a_result_of_a_study():
    cell = Configuration.of(
        strategy="siloed", num_server_rounds=2, learning_rate=1e30, train_samples=300, broker_samples=200, batch_size=8
    )
    result = cells_module.run_cell_to_its_end(cell)
    assert [agent["test_accuracy"] for agent in result["agents"].values()] == [None, None]
    assert tuning.accuracy_in(cell, result) == 0
    assert "— / —" in cells_module._line(cell, result)
    with pytest.raises(MarketError, match="finished no round"):
        cells_module.run_cell(cell)


def test_missed_rounds_are_those_after_an_agent_joined():
    cell = Configuration.of(agents=3, num_server_rounds=10, joins="1;6;1", faults="none;none;noise")
    rounds = {"A": 10, "B": 5, "C": 0}
    agents = {name: {"rounds_finished": count} for name, count in rounds.items()}
    assert missed_rounds({cell: {"agents": agents}}) == ""
    agents["B"]["rounds_finished"] = 4
    assert missed_rounds({cell: {"agents": agents}}).endswith("market, seed 0: B 4/5")


def test_what_the_command_line_refuses(tmp_path, capsys):
    common = ["--data-dir", str(tmp_path), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(["experiment", "scenarios", *common, "--only", "chaos"]) == 1
    assert "unknown part 'chaos' of the experiment; known are one-purpose, halves" in capsys.readouterr().err
    assert main(["experiment", "late", *common, "--seeds", "1000"]) == 1
    assert "seeds must not hold 1000" in capsys.readouterr().err
    assert main(["experiment", "labels", *common, "--scale", "medium"]) == 2
