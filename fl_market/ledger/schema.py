"""The ledger's tables."""

from sqlalchemy import BigInteger, CheckConstraint, Column, Float, Index, Integer, MetaData, String, Table, Text

metadata = MetaData()

accounts = Table(
    "accounts",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("balance", BigInteger, nullable=False),
    # all money comes from the endowment account: its balance is minus the total of the endowments
    CheckConstraint("balance >= 0 OR name = 'market/endowment'", name="no_balance_below_zero"),
)

deals = Table(
    "deals",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("round", Integer, nullable=False),
    Column("buyer", String(200), nullable=False),
    Column("seller", String(200), nullable=False),
    Column("bid", BigInteger, nullable=False),
    Column("ask", BigInteger, nullable=False),
    Column("price", BigInteger, CheckConstraint("price >= 0"), nullable=False),
    Column("gain", Float(53), nullable=False),
    Column("lower_bound", Float(53), nullable=False),
    Column("alpha", Float(53), nullable=False),
    Column("state", String(20), nullable=False),
    Index("deals_by_round", "round", "id"),
)

# the ids of the deals of a run begin with its name
runs = Table("runs", metadata, Column("name", String(200), primary_key=True))

entries = Table(
    "entries",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("step", String(20), nullable=False),
    Column("deal", String(200), nullable=False),
    Column("payer", String(200), nullable=False),
    Column("payee", String(200), nullable=False),
    Column("amount", BigInteger, CheckConstraint("amount >= 0"), nullable=False),
    Column("memo", Text, nullable=False),
    Column("recorded_at", Float(53), nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

formats = Table("format", metadata, Column("number", Integer, primary_key=True, autoincrement=False))
"""The number of the format of these tables, in one row."""
