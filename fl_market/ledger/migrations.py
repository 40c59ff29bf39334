"""Formats of the ledger's tables, and the way from each to the next.

An older ledger is brought up to date when it is opened to be written, in one transaction. A newer
one is refused. The journal itself never changes: its hashes are held by agents.
"""

from collections.abc import Callable

from sqlalchemy import Connection, delete, insert, inspect, select

from fl_market.errors import MarketError
from fl_market.ledger.schema import deals, formats, metadata

FORMAT = 2
"""Format of a new ledger."""


def _to_2(connection: Connection) -> None:
    """Add the index by which the last deals are read without the others."""
    for index in deals.indexes:
        index.create(connection, checkfirst=True)


MIGRATIONS: dict[int, Callable[[Connection], None]] = {2: _to_2}
"""Format -> how a ledger of the format before it is brought to it."""


def format_of(connection: Connection) -> int:
    """Return a ledger's format; 0 for none, 1 for a ledger that is older than the formats."""
    tables = inspect(connection).get_table_names()
    if formats.name in tables:
        return int(connection.execute(select(formats.c.number)).scalar_one())
    return 1 if "entries" in tables else 0


def check_format(found: int) -> None:
    """Raise unless this version can read the format.

    Raises
    ------
    MarketError
        If the format is newer.
    """
    if found > FORMAT:
        raise MarketError(f"the ledger has format {found}, and this version of fl-market reads up to {FORMAT}")


def migrate(connection: Connection) -> None:
    """Create the tables, or bring those of an older version up to date.

    Raises
    ------
    MarketError
        If the ledger is of a newer version.
    """
    found = format_of(connection)
    check_format(found)
    metadata.create_all(connection)
    for number in range(max(found, 1) + 1, FORMAT + 1):
        MIGRATIONS[number](connection)
    if found < FORMAT:
        connection.execute(delete(formats))
        connection.execute(insert(formats).values(number=FORMAT))
