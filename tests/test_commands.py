"""The command line, as a user types it, and both engines."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fl_market
from fl_market.cli import main
from fl_market.ledger import Ledger
from fl_market.reports.results import AgentResult, ArmResult, RoundReport, RoundResult
from fl_market.reports.summary import summarise
from tests.terms import PUBLISHED_FLAGS

pytestmark = pytest.mark.flower
ROOT = Path(__file__).resolve().parents[2]
QUICK = [*PUBLISHED_FLAGS, "--rounds", "3", "--first-round", "2", "--prior", "exponential(1000)"]
QUICK += ["--learning-rate", "0.1", "--quiet"]
FITTED = "--fit-learning-rate is ignored by siloed, market (used by market-fine)"


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "fl_market.cli", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def results(folder):
    document = json.loads((folder / "results.json").read_text())
    for arm in document["arms"].values():
        arm.pop("seconds")
    return document


def test_compare_writes_what_the_design_names(tmp_path, capsys):
    assert main(["compare", "--arms", "siloed,market-priced", "--out", str(tmp_path / "a"), *QUICK]) == 0
    printed = capsys.readouterr().out
    document = results(tmp_path / "a")
    assert (document["task"], document["seed"], document["rounds"]) == ("mnist-mlp", 0, 3)
    assert set(document) == {"task", "seed", "rounds", "flwr", "torch", "arms"}
    assert list(document["arms"]) == ["siloed", "market-priced"]
    for arm in document["arms"].values():
        for agent in arm["agents"].values():
            assert 0 <= agent["test_accuracy"] <= 1
            assert [entry["round"] for entry in agent["rounds"]] == [1, 2, 3]
            assert agent["test_accuracy"] == agent["rounds"][-1]["test_accuracy"]
    priced = document["arms"]["market-priced"]
    assert priced["deals"] == 4
    paid = {name: agent["paid"] for name, agent in priced["agents"].items()}
    assert paid["A"] == priced["agents"]["B"]["earned"] > 0
    for name, agent in priced["agents"].items():
        assert agent["balance"] == 100_000_000 - agent["paid"] + agent["earned"], name
    for text in ("siloed", "market-priced", "4 / 4", str(tmp_path / "a" / "results.json"), "learning_curves.png"):
        assert text in printed
    assert (tmp_path / "a" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")

    # the ledger can be looked into, and an edited one is found out
    database = tmp_path / "a" / "ledger-market-priced.db"
    assert main(["ledger", "verify", "--db", str(database)]) == 0
    assert main(["ledger", "show", "--db", f"sqlite:///{database}"]) == 0
    assert "settled" in capsys.readouterr().out
    import sqlite3

    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE entries SET amount = amount + 1 WHERE sequence = 5")
    assert main(["ledger", "verify", "--db", str(database)]) == 1
    assert "entry 5 was edited" in capsys.readouterr().out

    # the same seed gives the same file except for seconds, another seed does not; runs are kept
    assert main(["compare", "--arms", "siloed,market-priced", "--out", str(tmp_path / "a"), *QUICK]) == 1
    assert "already holds a run" in capsys.readouterr().err
    assert results(tmp_path / "a") == document
    assert main(["compare", "--arms", "siloed,market-priced", "--out", str(tmp_path / "b"), *QUICK]) == 0
    assert results(tmp_path / "b") == document
    assert (
        main(
            [
                "compare",
                "--arms",
                "siloed,market-priced",
                "--seed",
                "1",
                "--out",
                str(tmp_path / "a"),
                "--overwrite",
                *QUICK,
            ]
        )
        == 0
    )
    assert results(tmp_path / "a")["arms"] != document["arms"]


def test_both_engines_give_equal_results(tmp_path):
    """Flower's simulation of two agents and three rounds equals the inline engine's run."""
    run = ["run", "--strategy", "market-priced", *QUICK]
    simulated = simulate(tmp_path, *run[:-1], "--out", tmp_path / "simulation")
    inline = command(*run, "--engine", "inline", "--out", tmp_path / "inline")
    assert (simulated.returncode, inline.returncode) == (0, 0), simulated.stderr + inline.stderr
    lines = simulated.stderr.splitlines()
    assert len(lines) == 3, "nothing but progress: no log of Flower's or Ray's, no deprecation"
    assert all(line.startswith(f"market-priced: round {number}/3, ") for number, line in enumerate(lines, start=1))
    assert inline.stderr == ""
    assert results(tmp_path / "simulation") == results(tmp_path / "inline")
    for engine in ("simulation", "inline"):
        with Ledger.open_existing(f"sqlite:///{tmp_path / engine / 'ledger-market-priced.db'}") as ledger:
            assert ledger.verify() == []
            assert len(ledger.deals()) == 4


def simulate(folder, *arguments):
    """Run a command on Flower's simulation, and check that it leaves no process behind.

    All processes of the command inherit a mark, since other tests start the same programs.
    """
    environment = os.environ | {"FL_MARKET_MARK": str(folder)}
    words = [sys.executable, "-m", "fl_market.cli", *map(str, arguments), "--engine", "simulation"]
    seen = set()
    with (folder / "stderr").open("w") as errors:
        child = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        while child.poll() is None:
            seen |= marked(folder)
            time.sleep(0.5)
    if Path("/proc").is_dir():
        assert len(seen) > 2, "Ray's processes are seen while they run"
        deadline = time.monotonic() + 10
        while marked(folder) and time.monotonic() < deadline:  # Ray's last ones end a moment after the command
            time.sleep(0.2)
        assert marked(folder) == set()
    return subprocess.CompletedProcess(words, child.returncode, "", (folder / "stderr").read_text())


def marked(folder):
    """Return the ids of the processes that bear a folder's mark."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            entries = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"FL_MARKET_MARK={folder}".encode() in entries:
            found.add(int(process.name))
    return found


def test_seeds_are_summarised(tmp_path, capsys):
    assert main(["compare", "--arms", "siloed", "--seeds", "0,1", "--out", str(tmp_path), *QUICK]) == 0
    assert "±" in capsys.readouterr().out
    accuracies = [
        results(tmp_path / f"seed-{seed}")["arms"]["siloed"]["agents"]["A"]["test_accuracy"] for seed in (0, 1)
    ]
    summary = json.loads((tmp_path / "summary.json").read_text())
    cell = summary["arms"]["siloed"]["agents"]["A"]
    assert cell["mean"] == pytest.approx(sum(accuracies) / 2)
    assert cell["std"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)
    assert summary["seeds"] == [0, 1]


def test_the_summary_by_hand():
    def arm(accuracy, finished=3):
        agent = AgentResult((RoundResult(1, accuracy, 0.0, accuracy),), finished, 3 - finished)
        return {"x": ArmResult("x", "common", 1, {"A": agent}, rounds=3, deals=2, offers=4)}

    found = summarise({0: arm(0.5), 1: arm(0.7, finished=2), 2: arm(0.9)})["x"]
    assert found.pop("spread")["worst"] == found["agents"]["A"], "of one agent"
    assert found == {
        "starts": "common, from round 1",
        "agents": {"A": {"mean": pytest.approx(0.7), "std": pytest.approx(0.2)}},
        "deals": 2,
        "offers": 4,
        "rounds": 9,
        "rounds_finished": {"A": 8},
        "failed_replies": {"A": 1},
    }


def test_bench_overhead_writes_the_ratio_that_it_prints(tmp_path, capsys):
    assert main(["bench", "overhead", "--rounds", "1", "--first-round", "1", "--out", str(tmp_path)]) == 0
    ratio = json.loads((tmp_path / "overhead.json").read_text())["market / fedavg"]
    printed = capsys.readouterr().out
    assert "market / fedavg" in printed
    assert f"{ratio:.2f}" in printed


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["run", "--task", "chess"], 2, "unknown task 'chess'; known are mnist-mlp"),
        (["run", "--strategy", "gossip"], 2, "unknown arm 'gossip'; known are siloed"),
        (["run", "--agents", "1"], 2, "agents must be in [2, 1000]; got 1"),
        (["run", "--prior", "normal(0, 1)"], 2, "unknown prior"),
        (["run", "--rounds", "many"], 2, "invalid int value: 'many'"),
        (["run", "--engine", "warp"], 2, "invalid choice: 'warp'"),
        (["run", "--gain", "total"], 2, "invalid choice: 'total'"),
        (["run", "--fast"], 2, "unrecognized arguments: --fast"),
        (["run", "--partition", "dirichlet(0)", "--engine", "inline"], 2, "must be above 0; got 0"),
        (["run", "--data-dir", "/nowhere/at/all"], 1, "MNIST cannot be read from /nowhere/at/all"),
        (["run", "--out", "/proc/nowhere"], 1, "the folder /proc/nowhere cannot be created"),
        (["dance"], 2, "invalid choice: 'dance'"),
        (["compare", "--arms", "market,gossip"], 2, "unknown arm 'gossip'"),
        (["compare", "--arms", "market, siloed,market"], 2, "must name each once; got market twice"),
        (["compare", "--arms", "market,,siloed"], 2, "must be names separated by commas; got 'market,,siloed'"),
        (["compare", "--seeds", "0,x"], 2, "at least 0 separated by commas; got '0,x'"),
        (["compare", "--seeds", "0, 1, 0"], 2, "must name each once; got 0 twice"),
        (["compare", "--resume", "runs/first"], 2, "--resume goes on with one run"),
        (["experiment", "figure3", "--seeds", "0,-1"], 2, "at least 0 separated by commas; got '0,-1'"),
        (["experiment", "figure5", "--seeds", ""], 2, "at least 0 separated by commas; got ''"),
        (["experiment", "table1", "--data-dir", ".", "--data", "mnist,svhn"], 2, "unknown data set 'svhn'"),
        (["experiment", "table1", "--data-dir", ".", "--data", "mnist, mnist"], 2, "must name each once; got mnist"),
        (["experiment", "table2", "--data-dir", ".", "--jobs", "-1"], 2, "whole number of at least 0; got '-1'"),
        (["bench", "chaos", "--kills", "0"], 2, "whole number of at least 1; got '0'"),
        (["bench", "align", "--data-dir", ".", "--seed", "-3"], 2, "whole number of at least 0; got '-3'"),
        (["bench", "overhead", "--widen", "0"], 2, "widen must be at least 1; got 0"),
        (["ledger", "verify", "--db", "/nowhere.db"], 1, "there is no ledger at"),
        (["ledger", "verify", "--db", "mysql://here/ledger"], 2, "--db must be a file, sqlite:///FILE or postgresql"),
        (["ledger", "export", "--db", "x.db", "--format", "xml"], 2, "invalid choice: 'xml'"),
        (["ledger", "reconcile", "--db", "x.db"], 2, "required: --account, --receipts"),
    ],
)
def test_bad_input_is_one_clear_sentence(arguments, status, complaint, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == status
    error = capsys.readouterr().err
    assert complaint in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()[-1]) > 10


def test_help_and_lists_import_nothing_heavy():
    """They must answer at once; the declarations of the options import neither torch nor Flower."""
    code = (
        "import sys; from fl_market.cli import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'flwr', 'scipy', 'sqlalchemy', 'matplotlib'}; print(sorted(heavy & {*sys.modules}), status)"
    )
    for arguments in (["compare", "--help"], ["run", "--help"], ["--version"], ["arms"], ["tasks"], ["--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[] 0", arguments


def test_help_shows_groups_choices_arms_and_rules(capsys):
    assert main(["compare", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "run options: The run: its arm",
        "market options: How the broker aligns",
        "agent options: An agent's own settings",
        "--optimiser {sgd,adam}",
        "--classes TEXT, --labels TEXT",
        "pricing rule of the priced arms: nash, ask, free, split(share), posted(credits), or your own as FILE.py:NAME",
        "arms: siloed each agent trains alone",
        "pricing rules: nash the midpoint of bid and ask",
        "number of rounds (default: 20)",
    ):
        assert part in text


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fl-market {fl_market.__version__}\n"


def test_arms_and_tasks_are_listed(capsys):
    from fl_market.tasks import TASKS
    from strategies.arms import ARMS

    for command, names in (("arms", ARMS), ("tasks", TASKS)):
        assert main([command]) == 0
        lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
        assert {name for name, _ in lines} == {*names, "FILE.py:NAME"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_the_arguments(shell, capsys):
    pytest.importorskip("shtab", reason="shtab is not installed yet")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "fl-market" in script
    assert "learning-rate" in script


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["run", "--strategy", "market", "--pricing", "ask"],
            ["--pricing is ignored by market (used by market-priced)"],
        ),
        (["run", "--strategy", "market-priced", "--pricing", "ask"], []),
        (["compare", "--arms", "siloed, market", "--fit-learning-rate", "0.2", "--layers", "all"], [FITTED]),
        (["compare", "--arms", "siloed, market", "--fit-steps", "3", "--tuning-learning-rate", "0.01"], []),
        (["compare", "--arms", "siloed,fedprox", "--proximal-mu", "0.1", "--seeds", "0, 1"], []),
        (["compare", "--arms", "siloed,fedavg", "--classes", "", "--momentum", "0.5"], []),
        (
            ["compare", "--arms", "siloed,market", "--first-round", "2"],
            ["market exchanges no models: its first round of trading is 2, and the last is 1"],
        ),
    ],
)
def test_options_without_effect_are_said_so(arguments, lines, capsys, tmp_path):
    quick = ["--rounds", "1", "--train-samples", "300", "--broker-samples", "200", "--quiet", "--engine", "inline"]
    starts = [] if "--first-round" in arguments or "market" not in " ".join(arguments) else ["--first-round", "1"]
    assert main([*arguments, *quick, *starts, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err.splitlines() == [f"fl-market: {line}" for line in lines]


def test_a_resumed_run_may_get_more_rounds_and_nothing_else(tmp_path, capsys):
    """Extended, it ends as a run of that many rounds would; a finished one, too."""
    start = ["run", "--strategy", "market-priced", "--engine", "inline", "--prior", "exponential(1000)", "--quiet"]
    small = ["--learning-rate", "0.1", "--first-round", "2", "--train-samples", "600", "--broker-samples", "200"]
    resume = ["run", "--engine", "inline", "--quiet", "--resume", str(tmp_path / "a")]
    assert (
        main([*start, *small, "--rounds", "2", "--out", str(tmp_path / "a"), "--agent-dir", str(tmp_path / "x")]) == 0
    )
    before = (tmp_path / "a" / "configuration.json").read_text()
    for changed, complaint in (
        (["--seed", "1"], "seed must be 0; got 1 (a resumed run keeps"),
        (["--strategy", "market"], "strategy must be 'market-priced'; got 'market' (a resumed"),
        (["--out", str(tmp_path / "b")], "out-dir must be the folder of the resumed run"),
        (["--rounds", "1"], "num-server-rounds must be at least 2"),
    ):
        assert main([*resume, *changed]) == 2
        assert complaint in capsys.readouterr().err
    assert (tmp_path / "a" / "configuration.json").read_text() == before
    assert main([*resume, "--rounds", "4", "--seed", "0"]) == 0
    assert json.loads((tmp_path / "a" / "configuration.json").read_text())["num-server-rounds"] == 4
    assert (
        main([*start, *small, "--rounds", "4", "--out", str(tmp_path / "b"), "--agent-dir", str(tmp_path / "y")]) == 0
    )
    assert results(tmp_path / "a") == results(tmp_path / "b")
    assert main(resume) == 0, "without --rounds it goes on with those that it was extended to"
    assert results(tmp_path / "a") == results(tmp_path / "b")


def test_debug_shows_the_traceback(tmp_path):
    done = command("run", "--debug", "--data-dir", "/nowhere", "--out", tmp_path)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_progress_is_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    assert main(["compare", "--arms", "market-priced", "--out", str(tmp_path / "a"), *QUICK[:-1]]) == 0
    out, err = capsys.readouterr()
    assert [line.split(",")[0] for line in err.strip().splitlines()] == [
        f"market-priced: round {i}/3" for i in (1, 2, 3)
    ]
    assert "\x1b" not in err + out
    assert main(["compare", "--arms", "market-priced", "--out", str(tmp_path / "b"), *QUICK]) == 0
    assert capsys.readouterr().err == ""


def test_progress_is_a_bar_where_there_is_a_terminal(monkeypatch, capsys):
    from rich.console import Console

    from fl_market.reports import progress

    monkeypatch.setattr(progress, "Console", lambda **options: Console(force_terminal=True, width=200, **options))
    with progress.show_progress(2) as show:
        show(RoundReport("market", 1, 2, 7, 0.5))
    assert "market: round 1/2, 7 deals, accuracy 50.0 %" in capsys.readouterr().err
