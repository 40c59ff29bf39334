import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fl_market.cli import main
from fl_market.ledger import ESCROW, Deal, Ledger
from fl_market.reports.export import as_beancount, as_csv, as_json


@pytest.fixture
def url(tmp_path):
    """A ledger with a settled, a refunded and an open deal, and agents with awkward names."""
    address = f"sqlite:///{tmp_path / 'market.db'}"
    with Ledger.open(address) as ledger:
        for name in ("A", "B", "_nsere.firma", "-nsere-firma"):
            ledger.open_account(name, 1_500_000)
        for index, (buyer, seller) in enumerate([("A", "B"), ("B", "A"), ("_nsere.firma", "-nsere-firma")]):
            ledger.agree(Deal(f'run/{index}/"x"', index + 1, buyer, seller, 900_000, 100_001, 500_001, 0.1, 0.05, 0.5))
            ledger.escrow(f'run/{index}/"x"')
            ledger.deliver(f'run/{index}/"x"')
        ledger.settle('run/0/"x"')
        ledger.refund('run/1/"x"')
    return address


def test_csv_holds_the_journal(url):
    with Ledger.open(url) as ledger:
        rows = list(csv.DictReader(io.StringIO(as_csv(ledger))))
        assert [int(row["sequence"]) for row in rows] == list(range(1, len(rows) + 1))
        assert [row["hash"] for row in rows] == [entry.hash for entry in ledger.entries()]


def test_json_holds_accounts_deals_and_the_journal(url):
    with Ledger.open(url) as ledger:
        document = json.loads(as_json(ledger))
        assert document["accounts"] == ledger.balances()
        assert [deal["state"] for deal in document["deals"]] == ["settled", "refunded", "delivered"]
        assert len(document["entries"]) == len(ledger.entries())


def bean_check(text, tmp_path):
    program = Path(sys.executable).with_name("bean-check")
    if not program.exists():
        pytest.skip("bean-check is not installed: it comes with the package beancount")
    (tmp_path / "market.beancount").write_text(text)
    return subprocess.run([program, tmp_path / "market.beancount"], capture_output=True, text=True, check=False)


def test_beancount_is_accepted_by_bean_check(url, tmp_path):
    with Ledger.open(url) as ledger:
        text = as_beancount(ledger)
    done = bean_check(text, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = text.replace("balance Assets:Escrow  0.500001", "balance Assets:Escrow  0.500002")
    assert wrong != text
    assert bean_check(wrong, tmp_path).returncode != 0, "the balances are checked"


def test_an_empty_ledger_can_be_exported(tmp_path):
    with Ledger.open() as ledger:
        assert as_csv(ledger).startswith("sequence")
        assert json.loads(as_json(ledger))["deals"] == []
        assert bean_check(as_beancount(ledger), tmp_path).returncode == 0


def test_the_command_line_shows_statements_and_exports(url, capsys):
    assert main(["ledger", "show", "--db", url]) == 0
    shown = capsys.readouterr().out
    assert "Prices of settled deals" in shown
    assert "0.500001" in shown
    assert main(["ledger", "show", "--db", url, "--account", "A"]) == 0
    statement = capsys.readouterr().out
    assert "Statement of A" in statement
    assert "-0.500001" in statement
    assert main(["ledger", "show", "--db", url, "--account", "Z"]) == 1
    assert "no account 'Z'; it has" in capsys.readouterr().err
    for kind in ("csv", "json", "beancount"):
        assert main(["ledger", "export", "--db", url, "--format", kind]) == 0
        assert "escrowed" in capsys.readouterr().out


def test_what_a_dead_run_left_in_escrow_is_refunded_on_the_command_line(url, capsys):
    with Ledger.open(url) as ledger:
        ledger.begin_run("run")
        ledger.begin_run("runner")
        before = ledger.balance("_nsere.firma")
    assert main(["ledger", "abandon", "--run", "runner", "--db", url]) == 0
    assert "0 open deals of runner" in capsys.readouterr().out
    for count in (1, 0):
        assert main(["ledger", "abandon", "--run", "run", "--db", url]) == 0
        assert f"{count} open deals of run are refunded or void" in capsys.readouterr().out
    with Ledger.open(url) as ledger:
        assert (ledger.balance(ESCROW), ledger.balance("_nsere.firma")) == (0, before + 500_001)
        assert ledger.verify() == []
    abandon = ["ledger", "abandon", "--db", url]
    with Ledger.open(url) as ledger:
        deal = ledger.deals()[0][0]._replace(id="other/9/A/B")
        ledger.agree(deal)
        ledger.escrow(deal.id)
        paid = ledger.balance(deal.buyer)
    assert main([*abandon, "--older-than", "1"]) == 0
    assert "0 open deals older than 1 hours" in capsys.readouterr().out
    assert main([*abandon, "--older-than", "1e-9"]) == 0
    assert "1 open deals older than 1e-09 hours" in capsys.readouterr().out
    with Ledger.open(url) as ledger:
        assert ledger.balance(deal.buyer) == paid + deal.price
        assert ledger.verify() == []
    assert main([*abandon, "--older-than", "-1"]) == 2
    assert "--older-than must be above 0 hours; got -1" in capsys.readouterr().err
    assert main(["ledger", "abandon", "--run", "nobody", "--db", url]) == 1
    assert "the ledger has no run 'nobody'; it has run, runner" in capsys.readouterr().err
