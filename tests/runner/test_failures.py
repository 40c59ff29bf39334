"""Failed replies are named, counted and shown; an agent without a finished round fails the run."""

import json
import re
import subprocess
import sys

import pytest
from flwr.app import Error, Message

from fl_market.cli import main
from fl_market.configuration import Configuration
from fl_market.reports import UnfinishedRunError
from fl_market.runner import engines
from fl_market.runner.engines import run_inline
from strategies.arms import ARMS

pytestmark = pytest.mark.flower
TASK = '''
from dataclasses import replace

from fl_market.tasks import load_task

FAILING = {failing}
rounds = 0


def task(options):
    """MNIST, on which agent B's training raises in some rounds: one batch is a round."""
    whole = load_task("mnist-mlp", options)
    inputs, targets = whole.agents[1]
    marked = inputs.clone()
    marked[:, 0, 0, 0] = 100.0
    return replace(whole, agents=(whole.agents[0], (marked, targets)), augment=augment)


def augment(images):
    global rounds
    if bool((images[:, 0, 0, 0] == 100).any()):
        rounds += 1
        if rounds in FAILING:
            raise RuntimeError("B is unwell")
    return images
'''
SMALL = ["--train-samples", "200", "--broker-samples", "200", "--batch-size", "500", "--first-round", "1"]


@pytest.fixture
def unwell(tmp_path):
    """Options of a run in which B's training fails in some rounds, counted over all arms."""

    def options(failing):
        file = tmp_path / "unwell.py"
        file.write_text(TASK.format(failing=failing))
        return ["--task", f"{file}:task", *SMALL, "--out", str(tmp_path / "out"), "--overwrite"]

    return options


def without_advice(text):
    """Return the lines but for those on options that the arm ignores."""
    return [line for line in text.splitlines() if " is ignored by " not in line]


def agents_in(folder, arm):
    return json.loads((folder / "results.json").read_text())["arms"][arm]["agents"]


PSEUDONYMOUS = {arm for arm in ARMS if arm.startswith("market")}
PSEUDONYMOUS |= {"fedfomo", "siloed-tuned", "broker-only", "fedavg-matched"}


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "pooled"])  # there A trains on B's data
def test_an_agent_that_never_trains_fails_every_arm(unwell, tmp_path, capsys, caplog, arm):
    status = main(["compare", "--arms", arm, "--rounds", "2", "--fit-steps", "2", "--quiet", *unwell("range(99)")])
    assert status == 1
    warnings = [record.getMessage() for record in caplog.records if record.name == "fl_market"]
    for number, warning in enumerate(warnings, start=1):
        assert warning.startswith(f"round {number}: ")
        assert "agent B" in warning or arm in PSEUDONYMOUS, "markets log no names"
        assert "B is unwell; the round goes on without it" in warning
    assert len(warnings) == 2
    (sentence,) = without_advice(capsys.readouterr().err)
    assert sentence.startswith(f"fl-market: agent B finished no round of {arm}; the last failure: ")
    assert sentence.endswith("B is unwell")
    agents = agents_in(tmp_path / "out", arm)
    assert (agents["B"]["rounds_finished"], agents["B"]["failed_replies"]) == (0, 2)
    assert agents["B"]["test_accuracy"] is None
    assert (agents["A"]["rounds_finished"], agents["A"]["failed_replies"]) == (2, 0)
    assert agents["A"]["test_accuracy"] > 0


def test_the_other_arms_are_run_and_written_all_the_same(unwell, tmp_path, capsys):
    assert main(["compare", "--arms", "fedavg,siloed", "--rounds", "2", "--quiet", *unwell("(1, 2)")]) == 1
    assert "B finished no round of fedavg" in capsys.readouterr().err
    assert agents_in(tmp_path / "out", "siloed")["B"]["rounds_finished"] == 2


@pytest.mark.parametrize("arm", ["fedavg", "siloed", "fedala", "market", "fedfomo"])
def test_a_missed_round_is_shown_in_the_table(unwell, tmp_path, capsys, caplog, arm):
    assert main(["compare", "--arms", arm, "--rounds", "3", "--quiet", *unwell("(2,)")]) == 0
    out = capsys.readouterr().out
    assert caplog.text.count("the round goes on without it") == 1
    assert "rounds finished" in out
    assert "A 3/3, B 2/3" in out
    (row,) = [line for line in out.splitlines() if line.startswith(f"│ {arm} ")]
    assert re.search(r"│ +B 1 │", row), "failed replies"
    agents = agents_in(tmp_path / "out", arm)
    assert (agents["B"]["rounds_finished"], agents["B"]["failed_replies"]) == (2, 1)
    assert [entry["round"] for entry in agents["B"]["rounds"]] == [1, 3]


def test_a_missed_round_without_a_test_is_counted_as_well(unwell, tmp_path):
    assert main(["run", "--strategy", "fedavg", "--rounds", "3", "--test-every", "3", "--quiet", *unwell("(2,)"),
                 "--engine", "inline"]) == 0  # fmt: skip
    agents = agents_in(tmp_path / "out", "fedavg")
    assert (agents["A"]["rounds_finished"], agents["B"]["rounds_finished"]) == (3, 2)


def test_missed_rounds_are_shown_over_seeds(unwell, tmp_path, capsys):
    assert main(["compare", "--arms", "siloed", "--seeds", "0,1", "--rounds", "2", "--quiet", *unwell("(2,)")]) == 0
    assert "A 4/4, B 2/4" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["arms"]["siloed"]
    assert (summary["rounds"], summary["rounds_finished"], summary["failed_replies"]) == (
        4,
        {"A": 4, "B": 2},
        {"A": 0, "B": 2},
    )


def test_without_failures_the_table_says_nothing_of_them(unwell, capsys):
    assert main(["compare", "--arms", "siloed", "--rounds", "1", "--quiet", *unwell("()")]) == 0
    assert "rounds finished" not in capsys.readouterr().out


@pytest.mark.parametrize("engine", ["inline", "simulation"])
def test_warnings_stand_above_the_sentence_and_nothing_else_is_said(unwell, engine):
    """Neither a log of Flower or Ray is seen, nor a traceback of the agents' processes."""
    arguments = ["run", "--strategy", "fedavg", "--engine", engine, "--rounds", "1", *unwell("range(99)")]
    done = subprocess.run(
        [sys.executable, "-m", "fl_market.cli", *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    warning, progress, sentence = without_advice(done.stderr)
    assert re.fullmatch(r"round 1: agent B: .*B is unwell; the round goes on without it", warning)
    assert re.fullmatch(r"fedavg: round 1/1, 0 deals, accuracy .* %", progress)
    assert re.fullmatch(r"fl-market: agent B finished no round of fedavg; the last failure: .*B is unwell", sentence)


def test_parameters_that_fedavg_cannot_average_are_refused_by_name(caplog, monkeypatch):
    """A learning rate under which every agent diverges, and an agent of another width."""
    with pytest.raises(UnfinishedRunError, match=r"agents A, B finished no round of fedavg; .*NaN or infinite"):
        run_inline(Configuration.of(strategy="fedavg", num_server_rounds=1, learning_rate=1e30, train_samples=200))

    class Grid(engines.InlineGrid):
        def answer(self, message):
            reply = super().answer(message)
            if message.metadata.dst_node_id == 1001 and message.metadata.message_type == "train":
                state = reply.content["arrays"].to_torch_state_dict()
                state["1.weight"] = state["1.weight"][:, :5]
                reply.content["arrays"] = type(reply.content["arrays"])(state)
            return reply

    monkeypatch.setattr(engines, "InlineGrid", Grid)
    with pytest.raises(
        UnfinishedRunError, match=r"agent B finished no round of fedavg; .*'1.weight' must have shape"
    ) as found:
        run_inline(Configuration.of(strategy="fedavg", num_server_rounds=1, train_samples=200))
    assert found.value.result.agents["A"].rounds_finished == 1
    assert "round 1: agent B: '1.weight' must have shape (32, 784); got (32, 5)" in caplog.text


def test_an_agent_that_never_says_its_name_is_called_by_its_node(caplog, monkeypatch):
    asked = []

    class Grid(engines.InlineGrid):
        def answer(self, message):
            if message.metadata.dst_node_id == 1000:
                return super().answer(message)
            asked.append(message.metadata.message_type)
            return Message(Error(code=0, reason="out of memory"), reply_to=message)

    monkeypatch.setattr(engines, "InlineGrid", Grid)
    with pytest.raises(
        UnfinishedRunError, match="agent B finished no round of siloed; the last failure: out of memory"
    ):
        run_inline(Configuration.of(strategy="siloed", num_server_rounds=2, train_samples=200))
    warnings = [record.getMessage() for record in caplog.records if record.name == "fl_market"]
    assert warnings == [f"round {n}: node 1001: out of memory; the round goes on without it" for n in (1, 2)]
    assert asked == ["train", "query.identify", "train", "query.identify"], "once after a failure, once at the end"


def test_the_error_passes_from_one_process_to_another():
    import pickle

    with pytest.raises(UnfinishedRunError) as found:
        run_inline(Configuration.of(strategy="fedavg", num_server_rounds=1, learning_rate=1e30, train_samples=200))
    copy = pickle.loads(pickle.dumps(found.value))
    assert (str(copy), copy.result) == (str(found.value), found.value.result)


@pytest.mark.parametrize("verbose", [True, False])
def test_flower_s_log_is_shown_only_with_verbose(unwell, caplog, verbose):
    options = ["run", "--strategy", "siloed", "--engine", "inline", "--rounds", "1", "--quiet", *unwell("()")]
    assert main(options + ["--verbose"] * verbose) == 0
    assert ("[ROUND 1/1]" in caplog.text) == verbose
    assert verbose or not caplog.records
