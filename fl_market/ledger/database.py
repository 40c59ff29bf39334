"""The ledger's database, with serial transactions on every back end."""

from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from fl_market.errors import MarketError
from fl_market.ledger.migrations import check_format, format_of, migrate

LOCK = 0x666C6D6B74
"""Number of the advisory lock of PostgreSQL's transactions."""
WAIT = 10
"""Seconds that a transaction waits for another one to end."""
READING = {"fl_market_reading": True}
"""Execution options of a transaction that only reads."""


def open_database(url: str, *, create: bool = True) -> Engine:
    """Return an engine whose tables exist.

    Parameters
    ----------
    url
        ``sqlite:///FILE``, ``sqlite://`` (in memory) or ``postgresql+psycopg://…``.
    create
        Create the tables if they are missing.

    Raises
    ------
    MarketError
        If the URL is invalid, the database cannot be opened, or there is no ledger and ``create``
        is False.
    """
    try:
        address = make_url(url)
        in_memory = address.get_backend_name() == "sqlite" and address.database in (None, "", ":memory:")
        in_file = address.get_backend_name() == "sqlite" and not in_memory
        # one connection only: each connection to an in-memory database has a database of its own
        options = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}} if in_memory else {}
        if address.get_backend_name() == "postgresql":
            # not the server's default: at other levels, the lock below comes after the snapshot
            options = {"isolation_level": "READ COMMITTED", "pool_pre_ping": True}
        engine = create_engine(address, **options)
        if address.get_backend_name() == "sqlite":
            _make_sqlite_transactional(engine)
        elif address.get_backend_name() == "postgresql":
            _make_postgresql_serial(engine)
        if create:
            with engine.begin() as connection:
                migrate(connection)
            return engine
        if in_file and not Path(str(address.database)).is_file():
            raise MarketError(f"there is no ledger at {name_of(address)}")
        with engine.execution_options(**READING).begin() as connection:
            found = format_of(connection)
        if not found:
            raise MarketError(f"there is no ledger at {name_of(address)}")
        check_format(found)
        return engine
    except ArgumentError:
        raise MarketError(
            "the ledger's address must be a database URL: sqlite:///FILE or postgresql+psycopg://…"
        ) from None
    except (SQLAlchemyError, ImportError) as error:
        raise MarketError(f"the ledger {name_of(make_url(url))} cannot be opened: {reason_of(error)}") from error


def name_of(address: URL) -> str:
    """Return a database's address without its password, which may also be a parameter of it."""
    return address.set(query={}).render_as_string()


def reason_of(error: Exception) -> str:
    """Return a database error's first line, as the driver says it."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _make_sqlite_transactional(engine: Engine) -> None:
    """Take the write lock when a transaction begins; the driver takes it at the first write.

    A transaction that only reads takes none. It sees the state at its first statement throughout,
    and nobody waits for it.
    """

    @event.listens_for(engine, "connect")
    def _configure(connection, _record):  # type: ignore[no-untyped-def]
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA busy_timeout={1000 * WAIT}")

    @event.listens_for(engine, "begin")
    def _begin(connection):  # type: ignore[no-untyped-def]
        connection.exec_driver_sql("BEGIN" if _only_reads(connection) else "BEGIN IMMEDIATE")


def _make_postgresql_serial(engine: Engine) -> None:
    """Run writing transactions one after the other: each entry refers to the one before it."""

    @event.listens_for(engine, "begin")
    def _begin(connection):  # type: ignore[no-untyped-def]
        if _only_reads(connection):
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{WAIT}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")


def _only_reads(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("fl_market_reading"))
