"""A broker that crashes goes on where it was: same final result, and no deal half done."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from fl_market.cli import main
from fl_market.configuration import Configuration
from fl_market.errors import MarketError
from fl_market.experiments.engines import run_inline
from fl_market.ledger import ESCROW, DealState, Ledger
from fl_market.reports.files import read_configuration

pytestmark = pytest.mark.flower

ROUNDS = 5
OPTIONS = {
    "strategy": "market-priced",
    "num_server_rounds": ROUNDS,
    "first_round": 2,
    "prior": "exponential(1000)",
    "learning_rate": 0.1,
    "momentum": 0.5,
    "profile": "0,1,2,3,4,5,6,7,8",
}


class CrashError(BaseException):
    """What a test lets happen in the middle of a run; nothing catches it, as nothing catches a SIGKILL."""


def configured(folder, **options):
    """Agents keep their momentum on disk: else a resumed run would start without it."""
    return Configuration(out_dir=str(folder), agent_dir=str(folder / "agents"), **(OPTIONS | options))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run_inline(configured(tmp_path_factory.mktemp("whole")))


def settled(result):
    return [
        (deal.round, deal.buyer, deal.seller, deal.price, deal.alpha)
        for deal, state in result.trades
        if state is DealState.SETTLED
    ]


def check_ledger(folder):
    with Ledger.open_existing(f"sqlite:///{folder}/ledger-market-priced.db") as ledger:
        assert ledger.verify() == []
        assert sum(ledger.balances().values()) == 0
        return ledger.balance(ESCROW), ledger.deals()


def resumed(folder):
    from dataclasses import replace

    return run_inline(replace(read_configuration(folder), resume=str(folder)))


STEPS = ("agree", "escrow", "deliver", "settle", "open_account")


@pytest.mark.parametrize("number", [9, 14, 20, 23, 26, 29, 31])
def test_a_crash_at_any_step_of_the_ledger_changes_nothing_in_the_end(tmp_path, monkeypatch, uninterrupted, number):
    seen = []

    def crashing(step):
        original = getattr(Ledger, step)

        def wrapped(ledger, *arguments):
            seen.append(step)
            if len(seen) == number:
                raise CrashError
            return original(ledger, *arguments)

        return wrapped

    with monkeypatch.context() as patched:
        for step in STEPS:
            patched.setattr(Ledger, step, crashing(step))
        with pytest.raises(CrashError):
            run_inline(configured(tmp_path))
    check_ledger(tmp_path)
    result = resumed(tmp_path)
    escrow, deals = check_ledger(tmp_path)
    assert escrow == 0
    assert {state for _, state in deals} <= {DealState.SETTLED, DealState.REFUNDED, DealState.VOID}
    assert result.agents == uninterrupted.agents
    assert settled(result) == settled(uninterrupted)


def test_a_process_killed_at_random_can_be_resumed_until_it_is_done(tmp_path, uninterrupted):
    dice = random.Random(1)
    options = ["--rounds", str(ROUNDS), "--first-round", "2", "--prior", "exponential(1000)", "--learning-rate", "0.1"]
    options += [
        "--momentum",
        "0.5",
        "--profile",
        "0,1,2,3,4,5,6,7,8",
        "--agent-dir",
        str(tmp_path / "agents"),
        "--quiet",
    ]
    start = [sys.executable, "-m", "fl_market.cli", "run", "--engine", "inline"]
    arguments = [*options, "--strategy", "market-priced", "--out", str(tmp_path)]
    kills = 0
    for _ in range(30):
        child = subprocess.Popen([*start, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        checkpoints = tmp_path / "checkpoints-market-priced"
        reached = len(list(checkpoints.glob("round-*"))) if checkpoints.exists() else 0
        deadline = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:  # let it get somewhere first
            if checkpoints.exists() and any(checkpoints.iterdir()) and (kills == 0 or reached):
                break
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.5) if kills == 0 else dice.uniform(2, 5))
        if child.poll() is None and kills < 3:
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        _, errors = child.communicate(timeout=120)
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, errors.decode()
        check_ledger(tmp_path)
        arguments = ["--resume", str(tmp_path), "--quiet"]
    assert kills
    escrow, _ = check_ledger(tmp_path)
    assert escrow == 0
    import json

    document = json.loads((tmp_path / "results.json").read_text())["arms"]["market-priced"]
    for name, agent in uninterrupted.agents.items():
        assert document["agents"][name]["rounds"] == [vars(entry) for entry in agent.rounds]


def test_so_many_checkpoints_are_kept(tmp_path):
    run_inline(configured(tmp_path, num_server_rounds=4, checkpoints_kept=3))
    kept = sorted(path.name for path in (tmp_path / "checkpoints-market-priced").iterdir())
    assert kept == ["round-000002", "round-000003", "round-000004"]
    run_inline(configured(tmp_path / "none", num_server_rounds=1, checkpoints_kept=0))
    assert not (tmp_path / "none" / "checkpoints-market-priced").exists()


def test_a_full_disk_stops_the_round_before_money_moves(tmp_path, monkeypatch, uninterrupted):
    from strategies import checkpoints

    original, calls = checkpoints._write, []

    def full(path, content):
        calls.append(path)
        if len(calls) == 9:
            raise OSError(28, "No space left on device")
        original(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "_write", full)
        with pytest.raises(MarketError, match=r"checkpoint .*round-000004 cannot be written: No space left on device"):
            run_inline(configured(tmp_path))
    _, deals = check_ledger(tmp_path)
    assert {deal.round for deal, state in deals if state is DealState.SETTLED} == {2, 3}
    result = resumed(tmp_path)
    assert result.agents == uninterrupted.agents
    assert settled(result) == settled(uninterrupted)


def test_what_cannot_be_resumed_is_named(tmp_path, capsys):
    assert main(["run", "--resume", str(tmp_path), "--quiet"]) == 1
    assert "there is no run to resume" in capsys.readouterr().err
    run_inline(configured(tmp_path, strategy="siloed", num_server_rounds=1))
    assert main(["run", "--resume", str(tmp_path), "--engine", "inline", "--quiet"]) == 1
    assert "siloed keeps no checkpoints" in capsys.readouterr().err
    run_inline(configured(tmp_path / "b", num_server_rounds=1))
    broken = tmp_path / "b" / "checkpoints-market-priced" / "round-000001" / "tensors.safetensors"
    broken.write_bytes(broken.read_bytes()[:100])
    assert main(["run", "--resume", str(tmp_path / "b"), "--engine", "inline", "--quiet"]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert main(["compare", "--resume", str(tmp_path / "b"), "--quiet"]) == 2


def test_a_finished_run_resumed_returns_its_result(tmp_path):
    result = run_inline(configured(tmp_path, num_server_rounds=3))
    again = resumed(tmp_path)
    assert again.agents == result.agents
    assert settled(again) == settled(result)
