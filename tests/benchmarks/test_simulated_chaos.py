"""Markets with simulated crashes and lost messages, and the simulator's own power.

Each safeguard of the exchange is removed once, and some seed must show it.
"""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from sqlalchemy import Engine, event

from clients import agent_disk
from fl_market import run_folder
from fl_market.benchmarks import simulated_chaos
from fl_market.benchmarks.faults import Play, play
from fl_market.benchmarks.faults.disks import Disks
from fl_market.cli import main
from fl_market.files import create_folder, synchronise, write_whole
from fl_market.market import settlement
from strategies import checkpoints, recovery
from strategies.market import ParameterMarket
from strategies.recovery import Recovery

pytestmark = pytest.mark.flower

ROUNDS = 2


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_either_both_sides_have_what_they_agreed_on_or_neither(first):
    plays = [play(seed, ROUNDS) for seed in range(first, first + 50)]
    assert [one for one in plays if one.problems] == []
    assert sum(one.crashes for one in plays) > 50, "machines crash"
    assert sum(one.settled for one in plays) > 100, "agents trade"
    assert sum(one.ended for one in plays) > 5, "some purchases fail"


def test_a_seed_plays_the_same_market_again():
    assert [play(seed, ROUNDS) for seed in range(5)] == [play(seed, ROUNDS) for seed in range(5)]


# -- safeguards, each removed once


def without_a_synchronised_file(patch):
    def write(path, content, mode=0o666):
        unfinished = path.with_name(f"{path.name}.unfinished")
        unfinished.write_bytes(content)
        unfinished.replace(path)
        synchronise(path.parent)

    everywhere(patch, "write_whole", write)


def without_a_synchronised_name(patch):
    def write(path, content, mode=0o666):
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    everywhere(patch, "write_whole", write)


def without_a_synchronised_folder(patch):
    everywhere(patch, "create_folder", lambda folder: folder.mkdir(parents=True, exist_ok=True))


def without_a_synchronised_checkpoint(patch):
    patch.setattr(checkpoints, "synchronise", lambda folder: None)


def without_a_synchronised_receipt(patch):
    patch.setattr(agent_disk, "os", SimpleNamespace(fsync=lambda descriptor: None))


def without_a_synchronised_ledger(patch):
    def forget(connection):
        connection.connection.dbapi_connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(Engine, "engine_connect", forget)
    patch.callback(lambda: event.remove(Engine, "engine_connect", forget))


def without_a_checkpoint_of_the_decision(patch):
    keep = Recovery.keep
    patch.setattr(Recovery, "keep", lambda self, outcome=None: keep(self) if outcome is None else None)


def without_refunds_of_a_lost_round(patch):
    patch.setattr(settlement, "end_open_deals", lambda ledger, runs: 0)


def without_booking_on_resume(patch):
    patch.setattr(recovery, "settlement", SimpleNamespace(apply=print, end_open_deals=settlement.end_open_deals))
    patch.setattr(recovery.settlement, "apply", lambda ledger, outcome: None)


def with_money_before_the_checkpoint(patch):
    keep = Recovery.keep

    def late(self, outcome=None):
        if outcome is not None:
            settlement.apply(self._broker.ledger, outcome)
        keep(self, outcome)

    patch.setattr(Recovery, "keep", late)


def without_receipts_sent_again(patch):
    end = ParameterMarket._end

    def forgetful(self, server_round, replies):
        found = end(self, server_round, replies)
        self.broker.state = self.broker.state.without_receipts(list(self.broker.state.receipts))
        return found

    patch.setattr(ParameterMarket, "_end", forgetful)


def everywhere(patch, name, function):
    for module in (checkpoints, agent_disk, run_folder):
        patch.setattr(module, name, function, raising=False)


@pytest.fixture
def patch(monkeypatch, request):
    monkeypatch.callback = request.addfinalizer
    return monkeypatch


@pytest.mark.parametrize(
    "mutation",
    [
        without_a_synchronised_file,
        without_a_synchronised_name,
        without_a_synchronised_folder,
        without_a_synchronised_checkpoint,
        without_a_synchronised_receipt,
        without_a_synchronised_ledger,
        without_a_checkpoint_of_the_decision,
        without_refunds_of_a_lost_round,
        without_booking_on_resume,
        with_money_before_the_checkpoint,
        without_receipts_sent_again,
    ],
)
def test_a_removed_safeguard_is_found(mutation, patch):
    mutation(patch)
    assert any(play(seed, ROUNDS).problems for seed in range(100))


# -- the disks


@pytest.fixture
def disk(tmp_path):
    """Return a watched folder, and a function that returns what crashes may leave of it."""
    disks = Disks(np.random.default_rng(0))
    root = tmp_path / "disk"
    root.mkdir()
    with disks.watched():
        disks.restore(root, {})
        yield root, lambda: [disks.survivors(root) for _ in range(50)]


def test_what_was_synchronised_survives_each_crash(disk):
    root, survivors = disk
    create_folder(root / "a" / "b")
    write_whole(root / "a" / "b" / "file", b"content")
    assert all(tree == {"a": {"b": {"file": b"content"}}} for tree in survivors())


def test_what_was_not_synchronised_may_be_lost_cut_or_kept(disk):
    root, survivors = disk
    write_whole(root / "file", b"old")
    (root / "file").write_bytes(b"newer")
    (root / "other").write_bytes(b"")
    found = survivors()
    assert {tree["file"] for tree in found} >= {b"old", b"newer", b"ne"}
    assert {"other" in tree for tree in found} == {True, False}


def test_a_removal_that_was_not_synchronised_may_be_undone(disk):
    root, survivors = disk
    write_whole(root / "file", b"content")
    (root / "file").unlink()
    assert {tree.get("file") for tree in survivors()} == {None, b"content"}


def test_a_restored_disk_is_safe(disk):
    root, survivors = disk
    (root / "unsafe").write_bytes(b"x")
    Disks.restore(disk_of(survivors), root, {"a": {"file": b"content"}})
    assert all(tree == {"a": {"file": b"content"}} for tree in survivors())


def disk_of(survivors):
    return survivors.__closure__[0].cell_contents


# -- the command


def test_the_bench_plays_markets_and_reports_failures(tmp_path, monkeypatch, capsys):
    def played(seed, jobs):
        yield [Play(seed, 2, 3, 1, ()), Play(seed + 1, 0, 2, 0, ("A paid for nothing",))]
        yield [Play(seed + 2, 1, 4, 0, ())]

    monkeypatch.setattr(simulated_chaos, "_played", played)
    arguments = ["bench", "chaos", "--simulated", "--exchanges", "7", "--seed", "40", "--out", str(tmp_path)]
    assert main(arguments) == 0
    report = json.loads((tmp_path / "chaos-simulated.json").read_text())
    assert (report["markets"], report["exchanges"], report["settled"], report["crashes"]) == (3, 10, 9, 3)
    assert report["problems"] == {"41": ["A paid for nothing"]}
    shown = capsys.readouterr()
    assert "seed 41: A paid for nothing" in shown.err
    assert "seed 41: A paid for nothing" in " ".join(shown.out.split())


def test_batches_come_in_the_order_of_their_seeds(monkeypatch):
    monkeypatch.setattr(simulated_chaos, "BATCH", 2)
    batches = simulated_chaos._played(7, jobs=1)
    try:
        seeds = [one.seed for one in next(batches)]
    finally:
        batches.close()
    assert seeds == [7, 8]
