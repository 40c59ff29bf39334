import pytest
from sqlalchemy import create_engine, inspect, text

from fl_market.errors import MarketError
from fl_market.ledger import Deal, DealState, Ledger


def older(url):
    """Make a ledger of the first format out of a new one."""
    with Ledger.open(url) as ledger:
        for name in ("A", "B"):
            ledger.open_account(name, 100)
        ledger.agree(Deal("market/1/A/B", 1, "A", "B", 40, 20, 30, 0.1, 0.05, 0.5))
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE format"))
        connection.execute(text("DROP INDEX deals_by_round"))
    engine.dispose()


def indexes(url):
    engine = create_engine(url)
    found = {index["name"] for index in inspect(engine).get_indexes("deals")}
    engine.dispose()
    return found


def test_a_ledger_of_an_older_version_is_read_as_it_is_and_brought_up_to_date_when_written(ledger_url):
    older(ledger_url)
    with Ledger.open_existing(ledger_url) as ledger:
        assert ledger.verify() == []
    assert indexes(ledger_url) == set(), "a reader changes nothing"
    with Ledger.open(ledger_url) as ledger:
        assert ledger.verify() == []
        assert ledger.escrow("market/1/A/B") is DealState.ESCROWED
    assert indexes(ledger_url) == {"deals_by_round"}
    Ledger.open(ledger_url).close()  # again changes nothing


def test_a_ledger_of_a_newer_version_is_refused(ledger_url):
    with Ledger.open(ledger_url) as ledger, ledger._engine.begin() as connection:
        connection.execute(text("UPDATE format SET number = 9"))
    for opened in (Ledger.open, Ledger.open_existing):
        with pytest.raises(MarketError, match="the ledger has format 9, and this version of fl-market reads up to 2"):
            opened(ledger_url)
