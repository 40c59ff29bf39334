"""A private PostgreSQL server on the loopback interface, if PostgreSQL is installed."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path


def why_not_here():
    """Return why this machine cannot test with PostgreSQL; an empty text if it can."""
    if find_spec("psycopg") is None:
        return "psycopg is not installed; the extra 'postgresql' installs it"
    missing = [program for program in ("initdb", "pg_ctl") if shutil.which(program) is None]
    return f"PostgreSQL is not installed: {missing[0]} is not on the PATH" if missing else ""


class Server:
    """A server with its own data folder, user and port."""

    def __init__(self):
        # PostgreSQL refuses to run as root
        self._user = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self._folder = Path(tempfile.mkdtemp(prefix="fl-market-postgres-"))
        shutil.chown(self._folder, self._user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"postgresql+psycopg://market@127.0.0.1:{self._port}"
        self._run("initdb", "--auth=trust", "--username=market", "--encoding=UTF8", "--no-sync")
        self.start()

    def start(self):
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self):
        """Stop at once; connections are lost."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def remove(self):
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, program, *arguments):
        switched = {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid} if os.getuid() == 0 else {}
        done = subprocess.run(
            [program, "-D", str(self._folder / "data"), *arguments], cwd=self._folder, capture_output=True, text=True,
            timeout=60, check=False, env=os.environ, **switched,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
