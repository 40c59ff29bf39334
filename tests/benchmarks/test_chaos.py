"""What ``fl-market bench chaos`` would find; the bench itself takes too long for a test."""

import json

import pytest

from fl_market.benchmarks.chaos import market_problems
from fl_market.cli import main
from fl_market.deployment import processes as deployment
from fl_market.ledger import Deal, Ledger


@pytest.fixture
def books(tmp_path):
    """A market of which A bought three times: settled, refunded, refunded; and its receipts."""
    with Ledger.open(f"sqlite:///{tmp_path / 'market.db'}") as ledger:
        for name in "AB":
            ledger.open_account(name, 1000)
        for number in (1, 2, 3):
            ledger.agree(Deal(f"d{number}", number, "A", "B", 50, 10, 30 + number, 0.1, 0.05, 0.5))
            ledger.escrow(f"d{number}")
            ledger.deliver(f"d{number}")
            (ledger.settle if number == 1 else ledger.refund)(f"d{number}")
    write_receipts(tmp_path, [1, 2])
    return tmp_path


def write_receipts(folder, rounds):
    (folder / "A").mkdir(exist_ok=True)
    lines = [
        json.dumps({"run": "1", "round": n, "deal": f"{n}/x", "side": "bought", "partner": "x", "price": 30 + n})
        for n in rounds
    ]
    (folder / "A" / "receipts.jsonl").write_text("".join(f"{line}\n" for line in lines))


def problems(books, finished=True):
    return list(market_problems(books / "market.db", {name: books / name for name in "AB"}, finished))


def test_books_that_are_right(books):
    assert problems(books) == []


def test_a_payment_for_what_was_never_received_is_found(books):
    write_receipts(books, [2])
    assert problems(books) == ["A paid 31 in round 1 without a receipt of the delivery, 1 times"]
    assert problems(books, finished=False) == [], "the receipt may be on its way"


def test_what_was_received_without_payment_or_refund_is_found(books):
    write_receipts(books, [1, 2, 4])
    assert problems(books) == ["A received a purchase at 34 in round 4 without payment or refund, 1 times"]


def test_a_deal_that_is_half_done_is_found(books):
    with Ledger.open(f"sqlite:///{books / 'market.db'}") as ledger:
        ledger.agree(Deal("d9", 9, "A", "B", 50, 10, 30, 0.1, 0.05, 0.5))
        ledger.escrow("d9")
    assert problems(books) == ["the deal d9 is still open: escrowed"]
    assert problems(books, finished=False) == []


def test_books_that_were_not_begun(tmp_path):
    assert list(market_problems(tmp_path / "market.db", {}, finished=False)) == []


def test_a_machine_that_cannot_deploy_a_market_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(deployment, "SCRIPTS", tmp_path / "nothing")
    assert main(["bench", "chaos", "--kills", "1", "--out", str(tmp_path / "out")]) == 1
    assert "no market can be deployed on this machine: " in capsys.readouterr().err
