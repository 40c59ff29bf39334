"""A crashed broker resumes with the same final result, and leaves no deal open."""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.app import Error, Message

from fl_market.broker import Terms
from fl_market.cli import main
from fl_market.configuration import Configuration
from fl_market.errors import MarketError
from fl_market.ledger import ESCROW, DealState, Ledger, read_receipts, reconcile
from fl_market.market import incumbents, purchases, settlement
from fl_market.protocol import IDENTIFY
from fl_market.run_folder import LEDGER, at_work, clear_folder, read_configuration
from fl_market.runner.engines import run_inline
from fl_market.runner.inline_grid import InlineGrid
from strategies.checkpoints import Checkpoints
from strategies.market import ParameterMarket
from strategies.recovery import Recovery
from strategies.server_app import run_arm
from tests import postgres
from tests.terms import PUBLISHED, PUBLISHED_FLAGS

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
    **PUBLISHED,
}


class CrashError(BaseException):
    """A crash in the middle of a run; no handler catches it, as with SIGKILL."""


def configured(folder, **options):
    """Return options with which agents keep their momentum on disk for the resumption."""
    return Configuration.of(out_dir=str(folder), agent_dir=str(folder / "agents"), **(OPTIONS | options))


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
    return run_inline(read_configuration(folder).with_options(resume=str(folder)))


STEPS = ("agree", "escrow", "deliver", "settle", "open_account")


@pytest.mark.parametrize("number", [9, 14, 20, 23, 26, 29, 31])
def test_a_crash_at_any_step_of_the_ledger_leaves_the_result_unchanged(tmp_path, monkeypatch, uninterrupted, number):
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


def crashing(owner, name, when, at=3):
    """Return an owner's function that crashes before or after its call in a round."""
    original, calls = getattr(owner, name), []

    def wrapped(*arguments, **named):
        calls.append(name)
        due = len(calls) == at
        if due and when == "before":
            raise CrashError
        result = original(*arguments, **named)
        if due:
            raise CrashError
        return result

    return wrapped


# the first trading round is round 2: the third delivery is that of round 4
EXCHANGE = {
    "before the sealed purchases are sent": (ParameterMarket, "_acknowledgements", "before", 3),
    "after their acknowledgements": (ParameterMarket, "_acknowledgements", "after", 3),
    "before the decision is kept": (Recovery, "keep", "before", 7),
    "after the decision is kept": (Recovery, "keep", "after", 7),
    "after the payments": (settlement, "apply", "after", 3),
    "before the answers to the keys": (ParameterMarket, "_end", "before", 4),
    "before the round is kept": (Recovery, "keep", "before", 8),
    "after the round is kept": (Recovery, "keep", "after", 8),
    "after the last payments": (settlement, "apply", "after", 4),
}


@pytest.mark.parametrize("point", EXCHANGE)
@pytest.mark.parametrize("forgetful", [False, True])
def test_both_sides_have_what_they_agreed_on_or_neither_has(tmp_path, monkeypatch, uninterrupted, point, forgetful):
    """The broker crashes; with it, the agents lose all but their disks."""
    owner, name, when, at = EXCHANGE[point]
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, crashing(owner, name, when, at))
        with pytest.raises(CrashError):
            run_inline(configured(tmp_path))
    if forgetful:  # also of a resumed run
        with monkeypatch.context() as patched:
            patched.setattr(ParameterMarket, "_end", crashing(ParameterMarket, "_end", "before", 1))
            with pytest.raises(CrashError):
                resumed(tmp_path)
    result = resumed(tmp_path)
    escrow, deals = check_ledger(tmp_path)
    assert escrow == 0
    assert {state for _, state in deals} <= {DealState.SETTLED, DealState.REFUNDED}
    assert result.agents == uninterrupted.agents, "each buyer has the models that it paid for, and no others"
    assert settled(result) == settled(uninterrupted)
    for agent in "AB":
        receipts = read_receipts(tmp_path / "agents" / agent / "receipts.jsonl")
        assert reconcile(agent, deals, receipts) == []


def test_a_process_killed_at_random_can_be_resumed_to_the_end(tmp_path, uninterrupted):
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
        *PUBLISHED_FLAGS,
    ]
    start = [sys.executable, "-m", "fl_market.cli", "run", "--engine", "inline"]
    arguments = [*options, "--strategy", "market-priced", "--out", str(tmp_path)]
    kills = 0
    for _ in range(30):
        child = subprocess.Popen([*start, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        checkpoints = tmp_path / "checkpoints-market-priced"
        reached = len(list(checkpoints.glob("round-*"))) if checkpoints.exists() else 0
        deadline = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:  # lets it make progress first
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
    document = json.loads((tmp_path / "results.json").read_text())["arms"]["market-priced"]
    for name, agent in uninterrupted.agents.items():
        assert document["agents"][name]["rounds"] == [vars(entry) for entry in agent.rounds]


def test_two_crashes_at_the_same_step_leave_no_deal_open(tmp_path, monkeypatch, uninterrupted):
    """Both crash between delivery and checkpoint; the third run must refund their deals."""
    write = Checkpoints.write

    def crash(checkpoints, checkpoint):
        if checkpoint.round == 3:
            raise CrashError
        write(checkpoints, checkpoint)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "write", crash)
        with pytest.raises(CrashError):
            run_inline(configured(tmp_path))
        with pytest.raises(CrashError):
            resumed(tmp_path)
    _, deals = check_ledger(tmp_path)
    assert [deal.id.split("/")[0] for deal, state in deals if state is DealState.DELIVERED] == ["market-priced~2"] * 2
    result = resumed(tmp_path)
    escrow, deals = check_ledger(tmp_path)
    assert escrow == 0
    assert [state for deal, state in deals if deal.round == 3] == [DealState.REFUNDED] * 4 + [DealState.SETTLED] * 2
    assert settled(result) == settled(uninterrupted)


def test_a_crash_during_the_replacement_of_a_checkpoint_keeps_the_old_one(tmp_path, monkeypatch):
    run_inline(configured(tmp_path, num_server_rounds=2, checkpoints_kept=1))
    checkpoints = Checkpoints(tmp_path / "checkpoints-market-priced", kept=1)
    rename = Path.rename

    def crash(path, target):
        if path.suffix == ".unfinished":
            raise CrashError
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", crash)
        with pytest.raises(CrashError):
            checkpoints.write(checkpoints.last())
    last = checkpoints.last()
    assert last is not None
    assert last.round == 2
    checkpoints.write(last)
    assert [path.name for path in (tmp_path / "checkpoints-market-priced").glob("round-*")] == ["round-000002"]


def test_checkpoints_kept_limits_the_number_of_checkpoints(tmp_path):
    run_inline(configured(tmp_path, num_server_rounds=4, checkpoints_kept=3))
    kept = sorted(path.name for path in (tmp_path / "checkpoints-market-priced").glob("round-*"))
    assert kept == ["round-000002", "round-000003", "round-000004"]
    run_inline(configured(tmp_path / "none", num_server_rounds=1, checkpoints_kept=0))
    assert not (tmp_path / "none" / "checkpoints-market-priced").exists()


def test_a_full_disk_stops_the_round_before_money_moves(tmp_path, monkeypatch, uninterrupted):
    from strategies import checkpoints

    original, calls = checkpoints.write_whole, []

    def full(path, content):
        calls.append(path)
        if len(calls) == 13:
            raise OSError(28, "No space left on device")
        original(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "write_whole", full)
        with pytest.raises(MarketError, match=r"checkpoint .*round-000004 cannot be written: No space left on device"):
            run_inline(configured(tmp_path))
    _, deals = check_ledger(tmp_path)
    assert {deal.round for deal, state in deals if state is DealState.SETTLED} == {2, 3}
    result = resumed(tmp_path)
    assert result.agents == uninterrupted.agents
    assert settled(result) == settled(uninterrupted)


def test_runs_that_cannot_be_resumed_are_rejected(tmp_path, capsys):
    assert main(["run", "--resume", str(tmp_path), "--quiet"]) == 1
    assert "there is no run to resume" in capsys.readouterr().err
    run_inline(configured(tmp_path, strategy="siloed", num_server_rounds=1))
    assert main(["run", "--resume", str(tmp_path), "--engine", "inline", "--quiet"]) == 1
    assert "siloed keeps no checkpoints" in capsys.readouterr().err
    run_inline(configured(tmp_path / "b", num_server_rounds=1))
    (broken, *_) = (tmp_path / "b" / "checkpoints-market-priced" / "models").iterdir()
    broken.write_bytes(broken.read_bytes()[:100])
    assert main(["run", "--resume", str(tmp_path / "b"), "--engine", "inline", "--quiet"]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert main(["compare", "--resume", str(tmp_path / "b"), "--quiet"]) == 2


def test_a_running_run_cannot_be_resumed(tmp_path):
    """Two brokers of one market would end each other's open deals."""
    run_inline(configured(tmp_path, num_server_rounds=3))
    _, before = check_ledger(tmp_path)
    with (
        at_work(tmp_path, "market-priced"),
        pytest.raises(MarketError, match=r"another process is running market-priced in .*; end it, or wait"),
    ):
        resumed(tmp_path)
    assert check_ledger(tmp_path) == (0, before)
    assert settled(resumed(tmp_path))


def test_a_running_run_cannot_be_overwritten(tmp_path):
    run_inline(configured(tmp_path, num_server_rounds=1))
    left = sorted(tmp_path.iterdir())
    with at_work(tmp_path, "market-priced"), pytest.raises(MarketError, match="another process is running"):
        clear_folder(tmp_path, overwrite=True)
    assert sorted(tmp_path.iterdir()) == left


def test_a_checkpoint_needs_its_own_ledger(tmp_path, monkeypatch):
    run_inline(configured(tmp_path, num_server_rounds=2))
    with monkeypatch.context() as patched:
        patched.setenv(LEDGER, f"sqlite:///{tmp_path}/another.db")
        with pytest.raises(MarketError, match=r"belongs to another ledger: this one lacks its entry \d+"):
            resumed(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints-market-priced")
    before = check_ledger(tmp_path)
    with pytest.raises(MarketError, match=r"there is no checkpoint in .* to resume from"):
        resumed(tmp_path)
    assert check_ledger(tmp_path) == before, "nothing is paid twice"


def test_a_run_killed_while_it_opened_its_ledger_can_be_resumed(tmp_path, monkeypatch):
    from strategies import server_app

    def killed(url):
        Ledger.open(url).close()
        raise CrashError

    with monkeypatch.context() as patched:
        patched.setattr(server_app, "Ledger", SimpleNamespace(open=killed))
        with pytest.raises(CrashError):
            run_inline(configured(tmp_path, num_server_rounds=2))
    assert settled(resumed(tmp_path))


def test_resuming_a_finished_run_returns_its_result(tmp_path):
    result = run_inline(configured(tmp_path, num_server_rounds=3))
    again = resumed(tmp_path)
    assert again.agents == result.agents
    assert settled(again) == settled(result)


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path, monkeypatch, uninterrupted):
    from strategies import checkpoints

    def killed(path, content):
        raise CrashError

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "write_whole", killed)
        with pytest.raises(CrashError):
            run_inline(configured(tmp_path))
    result = resumed(tmp_path)
    assert result.agents == uninterrupted.agents
    assert settled(result) == settled(uninterrupted)


STATEMENTS = (8, 14, 20, 26)


@pytest.mark.parametrize("allowed", STATEMENTS)
def test_a_ledger_that_becomes_read_only_stops_the_run_and_loses_nothing(tmp_path, monkeypatch, uninterrupted, allowed):
    """SQLite refuses all writes from a given transaction on."""
    from sqlalchemy import event

    from fl_market.ledger import ledger as module

    original, begun = module.open_database, []

    def opened(url, **options):
        engine = original(url, **options)

        @event.listens_for(engine, "begin")
        def begin(connection):
            begun.append(connection)
            if len(begun) >= allowed:
                connection.exec_driver_sql("PRAGMA query_only = 1")

        return engine

    with monkeypatch.context() as patched:
        patched.setattr(module, "open_database", opened)
        with pytest.raises(MarketError, match=r"ledger .* refused a transaction, and nothing has changed: .*readonly"):
            run_inline(configured(tmp_path))
    check_ledger(tmp_path)
    result = resumed(tmp_path)
    assert check_ledger(tmp_path)[0] == 0
    assert result.agents == uninterrupted.agents
    assert settled(result) == settled(uninterrupted)


def test_a_ledger_on_a_full_disk_stops_the_run_and_loses_nothing(tmp_path, uninterrupted):
    """The size of the ledger's files is limited, as on a full disk; then the limit is removed."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items() if name != "strategy"]
    options = [option.replace("num-server-rounds", "rounds") for option in options]
    start = [sys.executable, "-m", "fl_market.cli", "run", "--engine", "inline", "--quiet", "--out", str(tmp_path)]
    start += ["--strategy", "market-priced", "--agent-dir", str(tmp_path / "agents"), *options]
    # 200 KiB: more than a model or a checkpoint needs, less than the ledger's write-ahead log
    command = ["bash", "-c", 'ulimit -f 200; trap "" XFSZ; exec "$@"', "limited", *start]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the ledger" in done.stderr or "cannot be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    check_ledger(tmp_path)
    result = resumed(tmp_path)
    assert result.agents == uninterrupted.agents
    assert settled(result) == settled(uninterrupted)


POSTGRESQL = postgres.why_not_here()


@pytest.mark.skipif(bool(POSTGRESQL), reason=POSTGRESQL)
def test_a_lost_connection_to_postgresql_stops_the_run_and_loses_nothing(tmp_path, monkeypatch, uninterrupted):
    server = postgres.Server()
    try:
        monkeypatch.setenv(LEDGER, f"{server.url}/postgres")
        original, seen = Ledger.deliver, []

        def lost(ledger, *arguments):
            seen.append(arguments)
            if len(seen) == 4:
                server.stop()
            return original(ledger, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(Ledger, "deliver", lost)
            with pytest.raises(MarketError, match=r"ledger .* refused a transaction, and nothing has changed"):
                run_inline(configured(tmp_path))
        server.start()
        with Ledger.open(f"{server.url}/postgres") as ledger:
            assert ledger.verify() == []
            states = {state for deal, state in ledger.deals() if deal.round == 3}
            assert states == {DealState.ESCROWED}, "the deliveries of a round are one transaction"
        result = resumed(tmp_path)
        with Ledger.open(f"{server.url}/postgres") as ledger:
            assert ledger.verify() == []
            assert ledger.balance(ESCROW) == 0
        assert result.agents == uninterrupted.agents
        assert settled(result) == settled(uninterrupted)
    finally:
        server.remove()


def test_runs_with_a_shared_ledger_are_independent(tmp_path, monkeypatch):
    """Accounts continue; deals, including those in escrow, belong to their run."""
    monkeypatch.setenv(LEDGER, f"sqlite:///{tmp_path / 'shared.db'}")
    first = run_inline(configured(tmp_path / "a", num_server_rounds=3))
    with Ledger.open(f"sqlite:///{tmp_path / 'shared.db'}") as ledger:
        open_deal = ledger.deals()[0][0]._replace(id="another-market/1/A/B")
        ledger.agree(open_deal)
        ledger.escrow(open_deal.id)
        balances = ledger.balances()
    second = run_inline(configured(tmp_path / "b", num_server_rounds=3, seed=1))
    again = resumed(tmp_path / "b")
    assert [deal.id.split("/")[0] for deal, _ in first.trades] == ["market-priced"] * len(first.trades)
    assert {deal.id.split("/")[0] for deal, _ in second.trades} == {"market-priced~2"}
    assert settled(again) == settled(second)
    with Ledger.open(f"sqlite:///{tmp_path / 'shared.db'}") as ledger:
        assert ledger.state(open_deal.id) is DealState.ESCROWED
        moved = {name: ledger.balance(name) - balances[name] for name in "AB"}
    assert moved == {name: result.earned - result.paid for name, result in second.agents.items()}


def test_resuming_a_run_without_trades_leaves_another_runs_deals_alone(tmp_path, monkeypatch):
    """Both runs started with an empty shared ledger, and the other run's deals are open."""
    monkeypatch.setenv(LEDGER, f"sqlite:///{tmp_path / 'shared.db'}")

    def crash(*arguments):
        raise CrashError

    for name, step in (("first", "agree"), ("other", "settle")):
        with monkeypatch.context() as patched:
            patched.setattr(Ledger, step, crash)
            with pytest.raises(CrashError):
                run_inline(configured(tmp_path / name))
    result = resumed(tmp_path / "first")
    assert {deal.id.split("/")[0] for deal, _ in result.trades} == {"market-priced~3"}
    with Ledger.open(f"sqlite:///{tmp_path / 'shared.db'}") as ledger:
        states = {deal.id: state for deal, state in ledger.deals() if deal.id.startswith("market-priced~2/")}
    assert set(states.values()) == {DealState.DELIVERED}


def test_the_broker_names_lost_agents_waits_for_them_and_stops_with_all_rounds_saved(tmp_path, caplog, uninterrupted):
    from clients.client_app import app

    class Emptying(InlineGrid):
        """A grid that loses all nodes after two rounds."""

        rounds = 0

        def get_node_ids(self):
            self.rounds += 1
            return [] if self.rounds > 2 else super().get_node_ids()

    configuration = configured(tmp_path, connect_timeout=0.2)
    grid = Emptying(app, configuration.run.agents, configuration.to_mapping())
    complaint = "none of the agents A, B came back within 0.2 s; rounds up to 2 are kept: resume the run"
    with caplog.at_level(logging.WARNING, "flwr"), pytest.raises(MarketError, match=complaint):
        run_arm(grid, configuration)
    assert "0 of 1 agents are connected; waiting up to 0.2 s for the rest of A, B" in caplog.text
    result = resumed(tmp_path)
    assert result.agents == uninterrupted.agents


def test_a_resumed_run_continues_with_the_agents_that_return(tmp_path, caplog):
    from clients.client_app import app

    configuration = configured(tmp_path, agents=3, partition="dirichlet(0.5)", num_server_rounds=3)
    run_inline(configuration)
    fewer = configuration.with_options(num_server_rounds=3, resume=str(tmp_path), connect_timeout=0.2)
    checkpoint = tmp_path / "checkpoints-market-priced" / "round-000003"
    shutil.rmtree(checkpoint)

    class OneAway(InlineGrid):
        def get_node_ids(self):
            return list(super().get_node_ids())[:2]

    result = run_arm(OneAway(app, 3, fewer.to_mapping()), fewer)
    assert [entry.round for entry in result.agents["A"].rounds] == [1, 2, 3]
    assert [entry.round for entry in result.agents["C"].rounds] == [1, 2]
    assert "2 of 3 agents are connected" in caplog.text


def test_an_unidentified_agent_keeps_its_model_after_a_resume(tmp_path):
    """The round excludes it, and the next round asks for its name again."""
    from clients.client_app import app

    run_inline(configured(tmp_path, num_server_rounds=4))
    shutil.rmtree(tmp_path / "checkpoints-market-priced" / "round-000004")
    known = Checkpoints(tmp_path / "checkpoints-market-priced").last()

    class Deaf(InlineGrid):
        """A grid on which B fails to answer the first query."""

        questions = 0

        def answer(self, message):
            if message.metadata.message_type == IDENTIFY and message.metadata.dst_node_id == 1001:
                self.questions += 1
                if self.questions == 1:
                    return Message(Error(1, "what?"), reply_to=message)
            return super().answer(message)

    options = configured(tmp_path, num_server_rounds=6, resume=str(tmp_path))
    result = run_arm(Deaf(app, 2, options.to_mapping()), options)
    assert [entry.round for entry in result.agents["A"].rounds] == [1, 2, 3, 4, 5, 6]
    assert [entry.round for entry in result.agents["B"].rounds] == [1, 2, 3, 5, 6]
    kept = [Checkpoints(tmp_path / "checkpoints-market-priced").last()]
    assert set(kept[0].outcome.models) == set(known.outcome.models) == {"A", "B"}


def test_an_extended_run_in_which_models_were_given_back_goes_on_as_an_uninterrupted_one(tmp_path, monkeypatch):
    """What its last round gave back is where neither training nor the market goes on from."""
    certified = incumbents.incumbent_of

    def with_best(buyer, state, terms, **options):
        found = certified(buyer, state, terms, **options)
        return replace(found, restored={name: 0.5 * tensor for name, tensor in state.items()})

    monkeypatch.setattr(purchases, "incumbent_of", with_best)
    terms = {name: getattr(Terms(), name) for name in PUBLISHED}
    small = {"train_samples": 600, "broker_samples": 300, "fit_steps": 5, "tuning_learning_rate": 0.02}
    whole = run_inline(configured(tmp_path / "whole", **terms, **small))
    first = run_inline(configured(tmp_path / "parts", num_server_rounds=3, **terms, **small))
    options = read_configuration(tmp_path / "parts").with_options(
        resume=str(tmp_path / "parts"), num_server_rounds=ROUNDS
    )
    extended = run_inline(options)
    assert settled(extended) == settled(whole)
    for name, agent in whole.agents.items():
        assert extended.agents[name].rounds[2] == first.agents[name].rounds[2]
        assert extended.agents[name].rounds[:2] == agent.rounds[:2]
        assert extended.agents[name].rounds[3:] == agent.rounds[3:]
        if (3, name) not in {(deal.round, deal.buyer) for deal, _ in whole.trades}:
            assert first.agents[name].rounds[2] != agent.rounds[2], "it was given back"
