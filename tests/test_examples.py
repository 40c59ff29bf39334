"""The examples run as they stand."""

import runpy
from pathlib import Path

import pytest

from fl_market.ledger import ESCROW, DealState

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "examples" / "library_market.py"


def code_lines(text):
    return [line for line in text.splitlines() if line and not line.startswith('"""')]


def test_a_whole_market_without_flower_in_twenty_lines():
    names = runpy.run_path(str(LIBRARY))
    broker, outcome = names["broker"], names["broker"].state
    assert {state for _, state in broker.trades} == {DealState.SETTLED}
    assert broker.ledger.balance(ESCROW) == 0
    assert broker.ledger.balance("A") + broker.ledger.balance("B") == 200_000_000
    assert broker.ledger.balance("A") != broker.ledger.balance("B")
    assert broker.ledger.verify() == []
    assert outcome.round == 1
    assert len(code_lines(LIBRARY.read_text(encoding="utf-8"))) <= 20


def test_the_readme_shows_it():
    if not (ROOT / "README.md").exists():
        pytest.skip("README.md is not beside the tests: the package is installed elsewhere")
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\n".join(code_lines(LIBRARY.read_text(encoding="utf-8"))) in "\n".join(code_lines(shown))
