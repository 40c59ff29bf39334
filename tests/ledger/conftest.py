"""A private PostgreSQL server on loopback, where one is installed."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text


@pytest.fixture(scope="session")
def postgres():
    """URL of a server that this session starts and stops."""
    pytest.importorskip("psycopg", reason="PostgreSQL needs psycopg, which the extra 'postgresql' installs")
    for program in ("initdb", "pg_ctl"):
        if shutil.which(program) is None:
            pytest.skip(f"PostgreSQL is not installed: there is no {program} on the PATH")
    # the server refuses to run as root
    user = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="fl-market-postgres-"))
    shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(*command):
        switched = {"user": user, "group": pwd.getpwnam(user).pw_gid} if os.getuid() == 0 else {}
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env=os.environ, **switched
        )
        assert done.returncode == 0, done.stdout + done.stderr

    data = folder / "data"
    run("initdb", "-D", str(data), "--auth=trust", "--username=market", "--encoding=UTF8", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    run("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    yield f"postgresql+psycopg://market@127.0.0.1:{port}"
    run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def new_ledger(request, tmp_path):
    """A function that returns the URL of another empty ledger, on each back end."""
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
