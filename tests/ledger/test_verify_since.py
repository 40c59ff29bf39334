"""A check of the newer entries finds in them what the whole check finds."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from fl_market.cli.commands import main
from fl_market.ledger import Deal, Ledger
from fl_market.ledger.verification import Mark


def book(ledger, number, last="settle"):
    deal = Deal(f"market/{number}", number, "AB"[number % 2], "BA"[number % 2], 40, 20, 30, 0.1, 0.05, 0.5)
    ledger.agree(deal)
    for step in ("escrow", "deliver", last):
        if step:
            getattr(ledger, step)(deal.id)


def opened():
    ledger = Ledger.open()
    for name in "AB":
        ledger.open_account(name, 100)
    return ledger


def execute(ledger, statement):
    with ledger._engine.begin() as connection:
        connection.execute(text(statement))


@settings(deadline=None)  # it writes to a disk that others use
@given(st.lists(st.sampled_from(["settle", "refund", ""]), max_size=8), st.integers(0, 8))
def test_checks_in_parts_reach_the_mark_of_one_check(lasts, cut):
    with opened() as ledger:
        mark = Mark()
        for number, last in enumerate(lasts):
            if number == cut:
                problems, mark = ledger.verify_since(mark)
                assert problems == []
                mark = Mark.from_json(json.loads(json.dumps(mark.as_json())))
            book(ledger, number, last)
        for number, last in enumerate(lasts):
            if not last:
                ledger.settle(f"market/{number}")
        assert ledger.verify() == []
        problems, mark = ledger.verify_since(mark)
        assert problems == []
        assert mark == ledger.verify_since(Mark())[1]
        assert (mark.ended, list(mark.open)) == (len(lasts), [])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("UPDATE accounts SET balance = balance + 1 WHERE name = 'A'", "the balance of 'A'"),
        ("UPDATE deals SET price = 29 WHERE id = 'market/1'", "the deal 'market/1' differs"),
        ("UPDATE deals SET state = 'refunded' WHERE id = 'market/2'", "the deal 'market/2' differs"),
        ("DELETE FROM deals WHERE id = 'market/0'", "the ledger has 2 deals, but its entries have 3"),
        ("DELETE FROM entries WHERE sequence = 8", "entry 8 is missing"),
        ("UPDATE entries SET amount = 1 WHERE sequence = 11", "entry 11 was edited"),
        ("UPDATE entries SET hash = 'x' WHERE sequence = 6", "entry 6 is not the one of the earlier check"),
    ],
)
def test_damage_after_the_mark_is_found(damage, problem):
    with opened() as ledger:
        book(ledger, 0)
        _, mark = ledger.verify_since(Mark())
        assert mark.sequence == 6
        book(ledger, 1)
        book(ledger, 2)
        execute(ledger, damage)
        assert any(problem in found for found in ledger.verify_since(mark)[0])


def test_an_ended_deal_cannot_begin_again():
    """Its id is no longer in the mark, so that only the number of deals shows it."""
    with opened() as ledger:
        book(ledger, 0)
        _, mark = ledger.verify_since(Mark())
        execute(ledger, "DELETE FROM deals")
        book(ledger, 0)
        assert ledger.verify_since(mark)[0] == ["the ledger has 1 deals, but its entries have 2"]


def test_the_command_leaves_a_file_for_the_next_check(tmp_path, capsys):
    url, file = f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path / "checked.json"
    verify = ["ledger", "verify", "--db", url, "--since", str(file)]
    with Ledger.open(url) as ledger:
        for name in "AB":
            ledger.open_account(name, 100)
        book(ledger, 0)
        assert main(verify) == 0
        left = file.read_bytes()
        book(ledger, 1)
        execute(ledger, "UPDATE accounts SET balance = 0 WHERE name = 'A'")
        assert main(verify) == 1
        assert file.read_bytes() == left, "only a check without problems moves the mark"
    capsys.readouterr()
    file.write_text("{}x")
    assert main(verify) == 1
    assert "is not what fl-market ledger verify --since left" in capsys.readouterr().err
