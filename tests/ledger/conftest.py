"""An empty ledger on each back end."""

import uuid

import pytest
from sqlalchemy import create_engine, text

from tests import postgres as private


@pytest.fixture(scope="session")
def postgres():
    """URL of a PostgreSQL server that this session starts and stops."""
    if reason := private.why_not_here():
        pytest.skip(reason)
    server = private.Server()
    yield server.url
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_ledger(request, tmp_path):
    """A function that returns the URL of a new empty ledger, on each back end."""
    if request.param == "sqlite":
        yield lambda: f"sqlite:///{tmp_path / uuid.uuid4().hex}.db"
        return
    server = request.getfixturevalue("postgres")
    administration = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    names = []

    def create():
        names.append(f"market_{uuid.uuid4().hex}")
        with administration.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {names[-1]}"))
        return f"{server}/{names[-1]}"

    yield create
    with administration.connect() as connection:
        for name in names:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    administration.dispose()


@pytest.fixture
def ledger_url(new_ledger):
    """URL of an empty ledger, on each back end."""
    return new_ledger()
