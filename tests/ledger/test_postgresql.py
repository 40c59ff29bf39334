"""What PostgreSQL's servers may do to a ledger: other defaults, held locks, broken connections."""

import time

import pytest
from sqlalchemy import create_engine, text

from fl_market.errors import MarketError
from fl_market.ledger import Ledger, database


@pytest.fixture
def new_url(request, new_ledger):
    if request.node.callspec.params["new_ledger"] != "postgresql":
        pytest.skip("these are options of PostgreSQL")
    return new_ledger()


pytestmark = pytest.mark.parametrize("new_ledger", ["postgresql"], indirect=True)


def test_writers_run_at_read_committed_whatever_the_server_s_default_is(new_url):
    """At REPEATABLE READ, a writer that waited for the lock would miss the entry before its own."""
    Ledger.open(new_url).close()
    administration = create_engine(new_url, isolation_level="AUTOCOMMIT")
    with administration.connect() as connection:
        name = connection.engine.url.database
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"))
    administration.dispose()
    with Ledger.open(new_url) as ledger:
        with ledger._change() as pages:
            assert pages.connection.execute(text("SHOW transaction_isolation")).scalar() == "read committed"
        with ledger._snapshot() as connection:
            assert connection.execute(text("SHOW transaction_isolation")).scalar() == "repeatable read"
            assert connection.execute(text("SHOW transaction_read_only")).scalar() == "on"


def test_a_writer_gives_up_on_a_lock_that_is_held_for_ever(new_url, monkeypatch):
    monkeypatch.setattr(database, "WAIT", 1)
    with Ledger.open(new_url) as ledger, Ledger.open(new_url) as other:
        ledger.open_account("A", 5)
        with other._change(), pytest.raises(MarketError, match="refused a transaction, and nothing has changed"):
            began = time.monotonic()
            ledger.open_account("B", 5)
        assert time.monotonic() - began < 8
        assert ledger.open_account("B", 5) == 5


def test_a_connection_that_the_server_closed_is_made_anew(new_url):
    with Ledger.open(new_url) as ledger:
        ledger.open_account("A", 5)
        administration = create_engine(new_url, isolation_level="AUTOCOMMIT")
        with administration.connect() as connection:
            others = "pid <> pg_backend_pid() AND datname = current_database()"
            ended = text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
            assert connection.execute(ended).scalars().all() == [True]
        administration.dispose()
        assert ledger.balance("A") == 5
