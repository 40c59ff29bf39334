"""A SuperLink, a ServerApp and three SuperNodes as processes of their own, over gRPC with TLS and node authentication.

The scripts are those of ``docs/deployment.md``.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path
from ssl import create_default_context

import pytest
from safetensors import safe_open

from fl_market.configuration import Configuration
from fl_market.ledger import Ledger, read_receipts, reconcile
from fl_market.parameters import digest
from tests.processes import end_processes_of

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts" / "deploy"
NODES = ("north", "south", "west")
OPTIONS = {
    "agents": 3,
    "partition": "dirichlet(0.5)",
    "strategy": "market-priced",
    "num-server-rounds": 3,
    "first-round": 2,
    "learning-rate": 0.1,
    "prior": "exponential(1000)",
}
PRIVATE = {"north": "purchase-limit=0.06", "south": "reserve-price=0.01", "west": ""}

pytestmark = [
    pytest.mark.skipif(
        not version("flwr").startswith("1.39."), reason="from Flower 1.40 on SuperNodes speak HTTP, not gRPC"
    ),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to end what it starts by its own id"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("openssl", "ssh-keygen", "bash"))), reason="needs openssl, ssh-keygen and bash"
    ),
]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Deployment:
    """The processes of one market on loopback."""

    def __init__(self, folder):
        self.folder, self.certificates = folder, folder / "certificates"
        self.control, self.fleet, *self.local = free_ports(2 + len(NODES))
        self.environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.script("certificates.sh", self.certificates, "127.0.0.1", *NODES)
        self.start("superlink.sh", folder / "link", self.certificates, "127.0.0.1", self.control, self.fleet)
        self.wait_for_superlink()
        self.script("operator.sh", folder / "operator", self.certificates, f"127.0.0.1:{self.control}", *NODES)
        for index, node in enumerate(NODES):
            self.start_node(index, node)

    def start_node(self, index, node):
        self.start(
            "supernode.sh", self.folder / node, self.certificates / "ca.crt", self.certificates / node,
            f"127.0.0.1:{self.fleet}", self.local[index], f"partition-id={index} {PRIVATE[node]}",
        )  # fmt: skip

    def script(self, name, *arguments):
        done = subprocess.run(
            [SCRIPTS / name, *map(str, arguments)], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, name, *arguments):
        with (self.folder / f"{name}-{Path(str(arguments[0])).name}.log").open("wb") as log:
            subprocess.Popen([SCRIPTS / name, *map(str, arguments)], env=self.environment, stdout=log, stderr=log)

    def wait_for_superlink(self):
        context = create_default_context(cafile=self.certificates / "ca.crt")
        for _ in range(120):
            try:
                with urllib.request.urlopen(f"https://127.0.0.1:{self.control}/health", context=context, timeout=5):
                    return
            except OSError:
                time.sleep(0.5)
        pytest.fail("the SuperLink did not start")

    def run(self, options):
        run_config = " ".join(f"{key}={json.dumps(value)}" for key, value in options.items())
        return subprocess.run(
            ["flwr", "run", ROOT, "market", "--stream", "--run-config", run_config],
            env=self.environment | {"FLWR_HOME": str(self.folder / "operator"), "FLWR_TELEMETRY_ENABLED": "0"},
            capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip


@pytest.fixture
def deployment(tmp_path):
    """A market that is up."""
    try:
        yield Deployment(tmp_path)
    finally:
        end_processes_of(tmp_path)


def test_a_deployed_market_ends_as_the_simulated_one(deployment, tmp_path):
    done = deployment.run(OPTIONS | {"out-dir": str(tmp_path / "out")})
    assert (tmp_path / "out" / "results.json").is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    deployed = json.loads((tmp_path / "out" / "results.json").read_text())["arms"]["market-priced"]
    assert deployed["deals"] > 0
    bought = [trade for trade in deployed["trades"] if trade["buyer"] == "A"]
    assert all(trade["bid"] <= 60_000 for trade in bought), "the agent's own limit"
    assert all(trade["ask"] >= 10_000 for trade in deployed["trades"] if trade["seller"] == "B"), "and its reserve"

    simulated = run_with_private_options().as_json()
    for result in (deployed, simulated):
        result.pop("seconds")
    assert deployed == simulated

    with Ledger.open_existing(f"sqlite:///{tmp_path / 'out' / 'ledger-market-priced.db'}") as ledger:
        assert ledger.verify() == []
        for node, name in zip(NODES, "ABC", strict=True):
            agent = tmp_path / node / "agent" / name
            assert reconcile(name, ledger.deals(), read_receipts(agent / "receipts.jsonl")) == []
            with safe_open(agent / "model.safetensors", "pt") as file:
                state = {tensor: file.get_tensor(tensor) for tensor in file.keys()}  # noqa: SIM118 (it is no mapping)
                assert file.metadata()["sha256"] == digest(state)
                assert file.metadata()["round"] == "3"


def run_with_private_options():
    """The same market in this process; each node has the options that its operator gave it."""
    from clients.client_app import app
    from fl_market.experiments.inline_grid import InlineGrid
    from strategies.server_app import run_arm

    configuration = Configuration.from_mapping(OPTIONS)
    grid = InlineGrid(app, 3, configuration.to_mapping())
    for context, node in zip(grid.contexts.values(), NODES, strict=True):
        for option in PRIVATE[node].split():
            name, value = option.split("=")
            context.node_config[name] = float(value)
    return run_arm(grid, configuration)
