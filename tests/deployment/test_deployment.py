"""A deployed market of three SuperNodes, over gRPC with TLS and node authentication.

The scripts are those of ``docs/deployment.md``.
"""

import json
import time

import pytest
from safetensors import safe_open

from fl_market.cli import main
from fl_market.configuration import Configuration
from fl_market.deployment.processes import Deployment, why_not_here
from fl_market.ledger import Ledger, read_receipts, reconcile, rewritten
from fl_market.ledger.receipts import heads_in
from fl_market.parameters import digest
from fl_market.run_folder import LEDGER, read_split_seed
from tests import far_apart
from tests.terms import PUBLISHED

OPTIONS = {
    "agents": 3,
    "partition": "dirichlet(0.5)",
    "strategy": "market-priced",
    "num-server-rounds": 3,
    "first-round": 2,
    "learning-rate": 0.1,
    "bind-accounts": True,
    **PUBLISHED,
    "split-seed": 0,  # in a deployment it is random otherwise
}
PRIOR = 'prior="exponential(1000)"'
PRIVATE = {"north": f"{PRIOR} purchase-limit=0.06", "south": f"{PRIOR} reserve-price=0.01", "west": PRIOR}

pytestmark = [pytest.mark.long, pytest.mark.skipif(bool(why_not_here()), reason=why_not_here())]


def run(deployment, options, folder="out"):
    """Run a market to its end, and return the result of its arm."""
    out = deployment.folder / folder
    deployment.submit(options | {"out-dir": str(out)})
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not (out / "results.json").exists():
        time.sleep(1)
        assert not deployment.last_status().startswith("finished:") or (out / "results.json").exists(), (
            deployment.link.with_suffix(".log").read_text()[-3000:]
        )
    return json.loads((out / "results.json").read_text())["arms"][options["strategy"]]


def test_a_deployed_market_ends_as_the_simulated_one(tmp_path):
    ledger_url = f"sqlite:///{tmp_path}/market.db"
    with Deployment(tmp_path, PRIVATE, environment={LEDGER: ledger_url}, registered=True) as deployment:
        for name in "ABC":  # what the simulation's agents are endowed with
            funded = ["ledger", "fund", name, "100", "--db", ledger_url, "--registry", str(deployment.registry)]
            assert main(funded) == 0
        deployed = run(deployment, OPTIONS)
        assert deployment.processes(tmp_path)
    assert not deployment.processes(tmp_path), "nothing is left running"
    assert read_split_seed(tmp_path / "out") is None, "the seed was given"
    assert deployed["deals"] > 0
    bought = [trade for trade in deployed["trades"] if trade["buyer"] == "A"]
    assert all(trade["bid"] <= 60_000 for trade in bought), "the agent's own limit"
    assert all(trade["ask"] >= 10_000 for trade in deployed["trades"] if trade["seller"] == "B"), "and its reserve"

    simulated = run_with_private_options(OPTIONS).as_json()
    for result in (deployed, simulated):
        result.pop("seconds")
    assert deployed == simulated

    with Ledger.open_existing(ledger_url) as ledger:
        assert ledger.verify() == []
        for node, name in zip(PRIVATE, "ABC", strict=True):
            agent = tmp_path / node / "agent" / name
            receipts = read_receipts(agent / "receipts.jsonl")
            assert reconcile(name, ledger.deals(), receipts) == []
            assert rewritten(heads_in(receipts), ledger.hashes()) == []
            assert heads_in(receipts)
            with safe_open(agent / "model.safetensors", "pt") as file:
                state = {tensor: file.get_tensor(tensor) for tensor in file.keys()}  # noqa: SIM118 (it is no mapping)
                assert file.metadata()["sha256"] == digest(state)
                assert file.metadata()["round"] == "3"


def run_with_private_options(options):
    """The same market in this process; each node has the options that its operator gave it."""
    from clients.client_app import app
    from fl_market.runner.inline_grid import InlineGrid
    from strategies.server_app import run_arm

    configuration = Configuration.from_mapping(options)
    grid = InlineGrid(app, configuration.run.agents, configuration.to_mapping())
    for context, node in zip(grid.contexts.values(), PRIVATE, strict=False):
        for option in PRIVATE[node].split():
            name, value = option.split("=")
            context.node_config[name] = value.strip('"') if name == "prior" else float(value)
    return run_arm(grid, configuration)


APART = far_apart.why_not_here()


@pytest.mark.skipif(bool(APART), reason=APART)
def test_a_market_across_network_namespaces_ends_as_the_simulated_one(tmp_path):
    """Its agents are behind a link of 50 ms each way that loses one packet in a hundred."""
    options = OPTIONS | {"agents": 2, "num-server-rounds": 2}
    agents = dict(list(PRIVATE.items())[:2])
    with far_apart.FarApart(delay=0.05, loss=0.01) as there:
        launchers = dict.fromkeys(agents, there.launcher)
        with Deployment(tmp_path, agents, host=far_apart.HERE, launchers=launchers) as deployment:
            deployed = run(deployment, options)
        assert there.lost > 0
    simulated = run_with_private_options(options).as_json()
    for result in (deployed, simulated):
        result.pop("seconds")
    assert deployed["deals"] > 0
    assert deployed == simulated
