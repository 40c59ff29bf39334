"""A deployed market on one machine, in separate processes over gRPC and TLS.

The scripts are those of ``docs/deployment.md``, unchanged. Linux only: processes are found, and
ended, by the Flower home in their environment.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from ssl import create_default_context
from types import TracebackType
from typing import Any, Self

from fl_market.errors import MarketError
from fl_market.naming import agent_name
from fl_market.registry import Registry
from fl_market.run_folder import AGENTS

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts" / "deploy"
CONNECTION = "market"
"""Name of the SuperLink in the operator's Flower configuration, as ``operator.sh`` writes it."""
_START_SECONDS = 90
_END_SECONDS = 10
_REST_SECONDS = 15


def why_not_here() -> str:
    """Return the reason why this machine cannot run a deployment; an empty text if it can."""
    if not version("flwr").startswith("1.39."):
        return "from Flower 1.40 on, SuperNodes use HTTP instead of gRPC"
    if not Path("/proc/self/environ").exists():
        return "/proc is needed to end processes by their own ids"
    if not SCRIPTS.is_dir():
        return f"a clone of fl-market is needed, with {SCRIPTS}"
    missing = [tool for tool in ("openssl", "ssh-keygen", "bash") if shutil.which(tool) is None]
    return f"{', '.join(missing)} must be installed" if missing else ""


class Deployment:
    """The processes of one market.

    Parameters
    ----------
    folder
        Folder of certificates, state and logs.
    nodes
        Name of each node -> its agent's node configuration, besides ``partition-id``.
    host
        Address that the SuperLink listens on, and that nodes connect to.
    launchers
        Name of a node -> prefix of its command, such as a command that enters a network namespace.
    environment
        Environment variables of the broker's processes.
    registered
        Whether the operator registers each node's key under the name of its agent.

    Raises
    ------
    MarketError
        If this machine cannot run a deployment, or a script fails.
    """

    def __init__(
        self,
        folder: Path,
        nodes: Mapping[str, str],
        *,
        host: str = "127.0.0.1",
        launchers: Mapping[str, Sequence[str]] | None = None,
        environment: Mapping[str, str] | None = None,
        registered: bool = False,
    ) -> None:
        if reason := why_not_here():
            raise MarketError(f"no market can be deployed on this machine: {reason}")
        self.folder, self.nodes, self.host = folder.absolute(), dict(nodes), host
        self._launchers, self._broker_environment = dict(launchers or {}), dict(environment or {})
        self._registered = registered
        self._certificates = self.folder / "certificates"
        self._control, self._fleet, *local = _free_ports(2 + len(self.nodes))
        self._local = dict(zip(self.nodes, local, strict=True))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "FLWR_TELEMETRY_ENABLED": "0"}
        self._children: list[subprocess.Popen[bytes]] = []
        self._started: dict[str, float] = {}

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._script("certificates.sh", self._certificates, self.host, *self.nodes)
            if self._registered:
                self._register()
            self.start_superlink()
            operator, address = self.folder / "operator", f"{self.host}:{self._control}"
            self._script("operator.sh", operator, self._certificates, address, *self.nodes)
            for node in self.nodes:
                self.start_node(node)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _register(self) -> None:
        registry = Registry()
        for index, node in enumerate(self.nodes):
            registry = registry.with_agent(agent_name(index), (self._certificates / f"{node}.pub").read_bytes())
        registry.write(self.registry)
        self._broker_environment[AGENTS] = str(self.registry)

    @property
    def registry(self) -> Path:
        """The registry of agents."""
        return self.folder / "agents.json"

    # -- processes --------------------------------------------------------------------------------

    def start_superlink(self) -> None:
        """Start the SuperLink on the existing database, if any, and wait until it answers."""
        self._start(
            [], self._broker_environment, "superlink.sh", self.link, self._certificates, self.host, self._control,
            self._fleet,
        )  # fmt: skip
        context = create_default_context(cafile=str(self._certificates / "ca.crt"))
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"https://{self.host}:{self._control}/health", context=context, timeout=5):
                    return
            except OSError:
                time.sleep(0.5)
        raise MarketError(f"the SuperLink did not start within {_START_SECONDS} s; see the logs in {self.folder}")

    def start_node(self, node: str) -> None:
        """Start a node's SuperNode, always with the same key and folder."""
        self._started[node] = time.monotonic()
        index = list(self.nodes).index(node)
        self._start(
            self._launchers.get(node, []), {}, "supernode.sh", self.folder / node, self._certificates / "ca.crt",
            self._certificates / node, f"{self.host}:{self._fleet}", self._local[node],
            f"partition-id={index} {self.nodes[node]}",
        )  # fmt: skip

    def supervise(self) -> None:
        """Restart nodes that ended, as systemd does.

        A node ends if the SuperLink still regards its earlier process as connected.
        """
        for node in self.nodes:
            rested = time.monotonic() - self._started.get(node, 0.0) >= _REST_SECONDS
            if rested and not self.processes(self.folder / node, "flower-supernode"):
                self.start_node(node)

    @property
    def link(self) -> Path:
        """The SuperLink's folder."""
        return self.folder / "link"

    def processes(self, of: Path, command: str = "") -> list[int]:
        """Return the ids of processes with a Flower home in a folder and a text in the command."""
        return [pid for pid in _running() if _home_in(pid, of) and command in _command(pid)]

    def kill(self, of: Path, command: str = "") -> int:
        """Send SIGKILL to the processes that :meth:`processes` returns; return their number."""
        found = self.processes(of, command)
        for pid in found:
            _send(pid, signal.SIGKILL)
        self._reap()
        return len(found)

    def end(self) -> None:
        """End every process of the deployment."""
        deadline = time.monotonic() + _END_SECONDS
        while left := self.processes(self.folder):
            for pid in left:
                _send(pid, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
            self._reap()
            time.sleep(0.2)
        self._reap()

    # -- runs -------------------------------------------------------------------------------------

    def submit(self, options: Mapping[str, Any]) -> None:
        """Submit a run with these options.

        Raises
        ------
        MarketError
            If the SuperLink does not accept it.
        """
        run_config = " ".join(f"{key}={json.dumps(value)}" for key, value in options.items())
        self._flwr("run", str(ROOT), CONNECTION, "--run-config", run_config)

    def last_status(self) -> str:
        """Return the status of the last submitted run, such as ``running`` or ``finished:failed``.

        Raises
        ------
        MarketError
            If the SuperLink does not answer.
        """
        listed = json.loads(self._flwr("ls", CONNECTION, "--format", "json"))
        runs = sorted(listed.get("runs", []), key=lambda run: str(run["pending-at"]))
        return str(runs[-1]["status"]) if runs else "none"

    def _flwr(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                ["flwr", *arguments], env=self._environment | {"FLWR_HOME": str(self.folder / "operator")},
                capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise MarketError(f"flwr {arguments[0]} did not answer in time") from error
        if done.returncode != 0:
            raise MarketError(f"flwr {arguments[0]} failed: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout

    # -- helpers ----------------------------------------------------------------------------------

    def _script(self, name: str, *arguments: object) -> None:
        done = subprocess.run(
            [SCRIPTS / name, *map(str, arguments)], env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise MarketError(f"{name} failed: {(done.stderr or done.stdout).strip()[-300:]}")

    def _start(self, launcher: Sequence[str], extra: Mapping[str, str], name: str, *arguments: object) -> None:
        with (self.folder / f"{Path(str(arguments[0])).name}.log").open("ab") as log:
            self._children.append(
                subprocess.Popen(
                    [*launcher, str(SCRIPTS / name), *map(str, arguments)],
                    env=self._environment | dict(extra),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )

    def _reap(self) -> None:
        """Drop children that have ended."""
        self._children = [child for child in self._children if child.poll() is None]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _running() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _home_in(pid: int, folder: Path) -> bool:
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or belongs to another user
        return False
    homes = [entry.removeprefix(b"FLWR_HOME=").decode() for entry in entries if entry.startswith(b"FLWR_HOME=")]
    return any(Path(home).is_relative_to(folder) for home in homes)


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
