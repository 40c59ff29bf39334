"""The broker's data is the broker's: agents never load it, and its split is its secret."""

import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict

from clients.client_app import app
from fl_market.errors import MarketError
from fl_market.gains import split_in_halves
from fl_market.gains.splits import split_for_run
from fl_market.ledger import Ledger
from fl_market.run_folder import SPLIT_SEED, clear_folder, read_split_seed, write_split_seed
from fl_market.runner.engines import run_inline
from fl_market.runner.inline_grid import InlineGrid
from fl_market.tasks.sample import FILE
from fl_market.tasks.task import BROKER
from strategies import server_app
from strategies.arms import Setting
from strategies.checkpoints import Checkpoints
from strategies.history import History
from tests.agent_node import Node
from tests.played import SpiedGrid, configured

pytestmark = pytest.mark.flower

SMALL = {"train_samples": 600, "broker_samples": 400}
ROOT = Path(__file__).resolve().parents[2]
TASK = """
from pathlib import Path

from fl_market.tasks import shared_task
from fl_market.tasks.mnist import prepared
from fl_market.tasks.mnist_mlp import build_mlp
from fl_market.tasks.sample import load_sample


def guarded(options):
    def broker():
        assert options.party == "broker", f"{options.party} loads the broker's data"
        return load_sample("broker")

    with Path(__file__).with_suffix(".log").open("a") as log:
        log.write(f"{options.party}\\n")
    train, test = load_sample("train"), load_sample("test")
    return shared_task(
        "guarded", build_mlp, train, test, options, batch_size=32, broker=broker, prepare=prepared
    )
"""


# -- agents never load it --------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["market-priced", "fedavg", "fedala", "pooled"])
def test_in_one_process_agents_ask_for_their_own_part(tmp_path, strategy):
    file = tmp_path / "mine.py"
    file.write_text(TASK)
    result = run_inline(configured(task=f"{file}:guarded", strategy=strategy, validation_samples=200, **SMALL))
    assert all(agent.rounds_finished == 3 for agent in result.agents.values())
    assert sorted(file.with_suffix(".log").read_text().split()) == ["0", "1", "broker"], "each once"


NODE = f"""
import gc
import sys

opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)

import torch

from tests.agent_node import Node

node = Node(validation_samples=200)
for server_round in (1, 2):
    reply = node.send("train", {{"server-round": server_round, "register": True}})
    assert not reply.has_error(), reply.error
    assert not node.send("evaluate", {{"server-round": server_round}}).has_error()
assert any(path.endswith("{FILE.format(part="train")}") for path in opened)
assert not any(path.endswith("{FILE.format(part="broker")}") for path in opened), "the broker's part was read"

from fl_market.tasks.mnist import prepared
from fl_market.tasks.sample import load_sample

held = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor and thing.shape[1:] == (1, 28, 28)]
counts = sorted(len(tensor) for tensor in held)
assert 2000 in counts, "the test set"
foreign = prepared(torch.cat([load_sample("broker")[0], load_sample("train")[0]]))
foreign = {{image.numpy().tobytes() for image in foreign}}
own = {{image.numpy().tobytes() for tensor in held for image in tensor}} & foreign
print(len(own))
"""


def test_an_agent_s_own_process_holds_its_own_samples_alone():
    """It trains, sends validation data and tests; it opens no file of the broker's samples."""
    done = subprocess.run([sys.executable, "-c", NODE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    own = configured().load_task(0).agents[0][0]
    assert int(done.stdout) == len({image.numpy().tobytes() for image in own})


def test_in_a_deployment_no_agent_trains_on_the_data_of_all():
    node = Node(**SMALL)
    del node.context.node_config["num-partitions"]
    assert "an agent has no data but its own" in node.error("train", {"data": "pooled"})
    assert node.send("train").has_content()


# -- sizes of the splits ---------------------------------------------------------------------------


def setting(split_seed=None, **options):
    configuration = configured(**(SMALL | options))
    return Setting(configuration, configuration.load_task(BROKER), History("market", 1), Ledger.open(), split_seed)


def same(one, other):
    return all(
        torch.equal(a, b) for ours, theirs in zip(one, other, strict=True) for a, b in zip(ours, theirs, strict=True)
    )


def test_the_split_follows_from_its_seed_and_size():
    broker = setting().task.broker
    assert same(setting().splits, split_in_halves(broker, 0))
    seven = setting(seed=7)
    assert same(seven.splits, split_in_halves(seven.task.broker, 7))
    assert same(setting(split_seed=7).splits, split_in_halves(broker, 7))
    fit, certify = setting(fit_samples=300).splits
    assert (len(fit[0]), len(certify[0])) == (300, 100)
    assert len(torch.unique(torch.cat([fit[0], certify[0]]), dim=0)) == len(torch.unique(broker[0], dim=0))


@pytest.mark.parametrize(("options", "left"), [({"broker_samples": 198}, 99), ({"fit_samples": 301}, 99)])
@pytest.mark.parametrize("strategy", ["market", "fedavg-tuned", "fedfomo", "siloed-tuned"])
def test_a_small_certify_split_is_refused_before_anything_is_written(tmp_path, strategy, options, left):
    refusal = f"the certify split must have at least 100 samples; got {left} of the broker's .*: raise broker-samples"
    with pytest.raises(MarketError, match=refusal):
        run_inline(configured(strategy=strategy, out_dir=str(tmp_path / "out"), **(SMALL | options)))
    assert not (tmp_path / "out").exists()
    with pytest.raises(MarketError, match=refusal):
        _ = setting(**options).splits


def test_arms_without_certificates_need_no_split():
    result = run_inline(configured(strategy="siloed", num_server_rounds=1, train_samples=300, broker_samples=20))
    assert result.agents["A"].rounds_finished == 1


def test_the_least_split():
    data = torch.zeros(199, 2), torch.arange(199)
    assert len(split_for_run(data, 0)[1][0]) == 100
    with pytest.raises(MarketError, match="got 0 of the broker's 199"):
        split_for_run(data, 0, fit_samples=300)


# -- seed of the split -----------------------------------------------------------------------------


class InMemoryGrid(InlineGrid):
    """A grid with the name of the one in Flower's simulation."""


@pytest.fixture
def seeds(monkeypatch):
    """The seeds that splits were drawn with."""
    used = []

    def noting(data, seed, fit_samples):
        used.append(seed)
        return split_for_run(data, seed, fit_samples)

    monkeypatch.setattr("strategies.arms.split_for_run", noting)
    return used


def start(folder, grid=InlineGrid, **options):
    """Run the ServerApp as Flower does, and return its grid."""
    given = {"unauthenticated": True} | SMALL | options
    configuration = configured(out_dir=str(folder), agent_dir=str(folder / "agents"), **given)
    nodes = grid(configuration) if grid is SpiedGrid else grid(app, 2, configuration.to_mapping())
    server_app.main(nodes, Context(1, 0, {}, RecordDict(), configuration.to_mapping()))
    return nodes


def results(folder):
    document = json.loads((folder / "results.json").read_text())
    for arm in document["arms"].values():
        arm.pop("seconds")
    return document


def test_in_a_simulation_the_split_follows_from_the_run_s_seed(tmp_path, seeds):
    start(tmp_path / "a", InMemoryGrid, seed=5)
    run_inline(configured(seed=5, **SMALL))
    assert seeds == [5, 5]
    assert not (tmp_path / "a" / SPLIT_SEED).exists()


def test_a_given_seed_is_used_everywhere(tmp_path, seeds):
    start(tmp_path / "a", InMemoryGrid, split_seed=7)
    start(tmp_path / "b", InlineGrid, split_seed=7)
    run_inline(configured(split_seed=7, **SMALL))
    assert seeds == [7, 7, 7]
    assert not list(tmp_path.glob(f"*/{SPLIT_SEED}"))
    assert results(tmp_path / "a") == results(tmp_path / "b")


def test_in_a_deployment_the_split_is_random_and_stays_with_the_broker(tmp_path, seeds):
    grids = [start(tmp_path / name, SpiedGrid) for name in "ab"]
    assert len({0, *seeds}) == 3
    for name, seed, grid in zip("ab", seeds, grids, strict=True):
        holders = [
            path.name
            for path in (tmp_path / name).rglob("*")
            if path.is_file() and str(seed).encode() in path.read_bytes()
        ]
        assert holders == [SPLIT_SEED]
        for _, message, reply in grid.seen:
            for record in (*message.content.config_records.values(), *reply.content.config_records.values()):
                assert str(seed) not in str(dict(record))
        assert all(str(seed) not in str(dict(context.run_config)) for context in grid.contexts.values())


class CrashError(BaseException):
    """A crash in the middle of a run."""


@pytest.mark.parametrize(("step", "last"), [("open_account", 0), ("deliver", 2)])
def test_a_resumed_run_keeps_its_random_split(tmp_path, seeds, monkeypatch, step, last):
    """It crashes in its first round, or in its last; no other seed may be drawn afterwards."""

    def crash(*arguments):
        raise CrashError

    monkeypatch.setattr(secrets, "randbits", lambda bits: 2**62 + 12345)
    start(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, step, crash)
        with pytest.raises(CrashError):
            start(tmp_path / "crashed")
    assert Checkpoints(tmp_path / "crashed" / "checkpoints-market-priced").last().round == last
    monkeypatch.setattr(secrets, "randbits", lambda bits: pytest.fail("a resumed run draws a seed"))
    start(tmp_path / "crashed", resume=str(tmp_path / "crashed"))
    assert seeds == [2**62 + 12345] * 3
    assert (
        results(tmp_path / "crashed")["arms"]["market-priced"]["agents"]
        == (results(tmp_path / "whole")["arms"]["market-priced"]["agents"])
    )


def test_a_resumption_without_the_seed_is_refused(tmp_path):
    start(tmp_path)
    (tmp_path / SPLIT_SEED).unlink()
    with pytest.raises(MarketError, match=r"cannot be resumed in a deployment: split-seed\.json is missing"):
        start(tmp_path, resume=str(tmp_path), num_server_rounds=4)
    (tmp_path / SPLIT_SEED).write_text("{}")
    with pytest.raises(MarketError, match=r"split-seed\.json cannot be read"):
        start(tmp_path, resume=str(tmp_path), num_server_rounds=4)


def test_a_folder_with_a_seed_alone_holds_no_run(tmp_path):
    """A run that was killed while it began is started again, and draws anew."""
    write_split_seed(tmp_path, 1)
    assert read_split_seed(tmp_path) == 1
    clear_folder(tmp_path, overwrite=False)
    assert read_split_seed(tmp_path) is None
