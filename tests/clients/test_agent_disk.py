import json
import os
import stat

import pytest
import torch
from safetensors import safe_open

from clients.agent_disk import MEMORIES_KEPT, AgentDisk
from fl_market.cli import main
from fl_market.errors import MarketError
from fl_market.ledger import Deal, DealState, Ledger, read_receipts, reconcile
from fl_market.parameters import digest
from fl_market.protocol import Receipt

STATE = {"w": torch.arange(6.0).reshape(2, 3).t(), "count": torch.tensor(3)}
BOUGHT, SOLD = Receipt("1/x", "bought", "x", 70), Receipt("1/x", "sold", "x", 20)


def test_the_model_is_on_disk_with_its_digest(tmp_path):
    disk = AgentDisk(tmp_path / "A")
    for number in (1, 2):
        disk.save_model(STATE, 7, number)
    with safe_open(tmp_path / "A" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"run": "7", "round": "2", "sha256": digest(STATE)}
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in STATE.items())
    assert [path.name for path in (tmp_path / "A").iterdir()] == ["model.safetensors"], "no unfinished file is left"


def test_a_write_that_fails_leaves_the_last_model(tmp_path, monkeypatch):
    disk = AgentDisk(tmp_path)
    disk.save_model(STATE, 7, 1)
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fl_market.files.os.fsync", full)
    with pytest.raises(MarketError, match=f"folder {tmp_path} cannot be written: No space left"):
        disk.save_model(STATE, 7, 2)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_receipts_are_noted_once_and_survive_a_cut_line(tmp_path):
    disk = AgentDisk(tmp_path)
    disk.note([BOUGHT, SOLD], 7)
    disk.note([BOUGHT, SOLD], 7)
    disk.note([BOUGHT], 8)
    assert [(entry["run"], entry["side"]) for entry in disk.receipts()] == [
        ("7", "bought"),
        ("7", "sold"),
        ("8", "bought"),
    ]
    assert disk.spent() == 140
    with (tmp_path / "receipts.jsonl").open("a") as file:
        file.write('{"run": "8", "rou')
    assert disk.spent() == 140
    disk.note([BOUGHT], 9)
    assert [entry["run"] for entry in disk.receipts()] == ["7", "7", "8", "9"], "a cut line damages no later line"


HEADLESS = b'{"run": "7", "round": 1, "deal": "1/x", "side": "sold", "partner": "x", "price": 1, "head": {"size": 1}}'


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b'{"run": "7"}', b"\xff\xfe", HEADLESS])
def test_a_damaged_journal_is_named_with_its_line(tmp_path, line):
    path = tmp_path / "receipts.jsonl"
    AgentDisk(tmp_path).note([BOUGHT], 7)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(MarketError, match=rf"line 2 of {path} is not a receipt"):
        read_receipts(path)
    with pytest.raises(MarketError, match="cannot be read"):
        read_receipts(tmp_path / "none.jsonl")


def test_receipts_are_durable_and_so_is_the_name_of_their_file(tmp_path, monkeypatch):
    synchronised = []
    real = os.fsync

    def fsync(descriptor):
        synchronised.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    AgentDisk(tmp_path).note([BOUGHT], 7)
    assert synchronised == [False, True]


def test_the_last_memories_are_kept(tmp_path):
    disk = AgentDisk(tmp_path)
    for number in range(MEMORIES_KEPT + 1):
        disk.save_memory({"bought": {"micro-credits": number}}, f"{number}" * 64)
    assert disk.memory_beside("0" * 64) == {}
    for number in range(1, MEMORIES_KEPT + 1):
        assert disk.memory_beside(f"{number}" * 64)["bought"]["micro-credits"] == number


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", {"records": {}}, {"model": "0" * 64, "records": {"bought": 3}},
     {"model": "0" * 64, "records": {"bought": {"micro-credits": [None]}}}, {"model": "0" * 64, "records": 3}],
)  # fmt: skip
def test_a_damaged_memory_is_named(tmp_path, content):
    path = tmp_path / f"memory-{'0' * 16}.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(MarketError, match=f"the agent's memory file {path} is damaged; delete it") as caught:
        AgentDisk(tmp_path).memory_beside("0" * 64)
    assert "\n" not in str(caught.value)


def entry(number, side, price):
    return json.loads(json.dumps({"round": number, "side": side, "price": price}))


def deal(number, buyer, seller, price, state=DealState.SETTLED):
    return Deal(f"{number}/{buyer}", number, buyer, seller, price, price, price, 0.1, 0.1, 0.5), state


def test_reconcile_from_the_command_line(tmp_path, capsys):
    database, receipts = f"sqlite:///{tmp_path / 'market.db'}", tmp_path / "receipts.jsonl"
    with Ledger.open(database) as ledger:
        for name in "AB":
            ledger.open_account(name, 100)
        ledger.agree(deal(1, "A", "B", 70)[0])
        for step in (ledger.escrow, ledger.deliver, ledger.settle):
            step("1/A")
    AgentDisk(tmp_path).note([BOUGHT], 7)
    arguments = ["ledger", "reconcile", "--db", database, "--receipts", str(receipts)]
    assert main([*arguments, "--account", "A"]) == 0
    assert "all 1 receipts of A agree with the ledger" in capsys.readouterr().out
    assert main([*arguments, "--account", "B"]) == 1
    assert "round 1: the ledger has B sold for 0.000070" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "required: --account" in capsys.readouterr().err


def test_receipts_and_ledger_are_compared_by_round_side_and_price():
    deals = [deal(1, "A", "B", 5), deal(1, "B", "A", 6), deal(2, "A", "B", 7), deal(3, "C", "B", 1)]
    agreeing = [entry(1, "bought", 5), entry(1, "sold", 6), entry(2, "bought", 7)]
    assert reconcile("A", deals, agreeing) == []
    (missing,) = reconcile("A", deals, agreeing[:2])
    assert missing == "round 2: the ledger has A bought for 0.000007, 1 × without a receipt"
    dearer, cheaper = reconcile("A", deals, [*agreeing[:2], entry(2, "bought", 8)])
    assert "0.000007" in dearer
    assert "a receipt says A bought for 0.000008, 1 × refunded or missing" in cheaper
    waiting = [*deals[:2], deal(2, "A", "B", 7, DealState.DELIVERED)]
    assert "still open" in reconcile("A", waiting, agreeing)[0]
