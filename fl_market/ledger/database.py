"""Open the ledger's database, with transactions that hold on every back end."""

from pathlib import Path

from sqlalchemy import URL, Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from fl_market.errors import MarketError
from fl_market.ledger.schema import metadata

LOCK = 0x666C6D6B74
"""Number of the advisory lock that PostgreSQL's transactions take."""


def open_database(url: str, *, create: bool = True) -> Engine:
    """Return an engine whose tables exist.

    Raises
    ------
    MarketError
        If the URL is none, or the database cannot be opened.
    """
    try:
        address = make_url(url)
        in_memory = address.get_backend_name() == "sqlite" and address.database in (None, "", ":memory:")
        in_file = address.get_backend_name() == "sqlite" and not in_memory
        # one connection: every connection to an in-memory database is a database of its own
        options = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}} if in_memory else {}
        engine = create_engine(address, **options)
        if address.get_backend_name() == "sqlite":
            _make_sqlite_transactional(engine)
        elif address.get_backend_name() == "postgresql":
            _make_postgresql_serial(engine)
        if create:
            metadata.create_all(engine)
        elif (in_file and not Path(str(address.database)).is_file()) or not inspect(engine).has_table("entries"):
            raise MarketError(f"there is no ledger at {name_of(address)}")
        return engine
    except ArgumentError:
        raise MarketError(
            "the ledger's address is no database URL; accepted are sqlite:///FILE and postgresql+psycopg://…"
        ) from None
    except (SQLAlchemyError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise MarketError(f"the ledger {name_of(make_url(url))} cannot be opened: {reason}") from error


def name_of(address: URL) -> str:
    """Return a database's address without what may be secret: the password, also where it is a parameter."""
    return address.set(query={}).render_as_string()


def _make_sqlite_transactional(engine: Engine) -> None:
    """Begin every transaction with the write lock: Python's driver would begin it only at the first write."""

    @event.listens_for(engine, "connect")
    def _configure(connection, _record):  # type: ignore[no-untyped-def]
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=10000")

    @event.listens_for(engine, "begin")
    def _begin(connection):  # type: ignore[no-untyped-def]
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _make_postgresql_serial(engine: Engine) -> None:
    """Let one transaction after the other have the ledger: each entry follows the one before it."""

    @event.listens_for(engine, "begin")
    def _begin(connection):  # type: ignore[no-untyped-def]
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
