"""A user's own task, and partitioners of flwr-datasets."""

import json
from pathlib import Path

import pytest
import torch

from fl_market.cli import main
from fl_market.configuration import Configuration
from fl_market.errors import MarketError
from fl_market.tasks import by_partitioner, load_task
from fl_market.tasks.task import TaskOptions

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_task.py"


def test_the_documented_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(EXAMPLE.parent)
    arguments = ["--task", "own_task.py:rings", "--broker-samples", "600", "--partition", "dirichlet(0.3)", "--quiet"]
    training = ["--rounds", "6", "--first-round", "2", "--learning-rate", "0.1"]
    assert main(["compare", *arguments, *training, "--arms", "siloed,market-fine", "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["task"] == f"{EXAMPLE}:rings"
    assert document["arms"]["market-fine"]["deals"] > 0
    mean = {
        arm: sum(agent["test_accuracy"] for agent in result["agents"].values()) / 2
        for arm, result in document["arms"].items()
    }
    assert mean["market-fine"] > mean["siloed"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("def other(options): pass", "does not define 'task'"),
        ("raise RuntimeError('not today')", "cannot be run: RuntimeError: not today"),
        ("def task(options): return 3", "must return a fl_market.tasks.Task; got int"),
    ],
)
def test_a_file_without_a_valid_task_is_named(tmp_path, text, complaint):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(MarketError, match=complaint):
        Configuration.of(task=f"{file}:task").load_task()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MarketError, match=r"nothing\.py cannot be run"):
        Configuration.of(task=f"{tmp_path}/nothing.py:task")


def test_a_task_without_data_for_every_agent_is_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        EXAMPLE.read_text().replace("def rings(options", "def all_rings(options")
        + "\nfrom dataclasses import replace\n"
        + "def one(options):\n    task = all_rings(options)\n    return replace(task, agents=task.agents[:1])\n"
    )
    with pytest.raises(MarketError, match="has data for 1 agents; agents is 2"):
        load_task(f"{file}:one", TaskOptions(broker_samples=100))


def test_partitioners_of_flwr_datasets_share_out_every_sample_once():
    partitioner = pytest.importorskip(
        "flwr_datasets.partitioner", reason="flwr-datasets is not installed; the extra 'datasets' installs it"
    )
    targets = torch.arange(600) % 10
    for made in (
        partitioner.IidPartitioner(3),
        partitioner.DirichletPartitioner(3, "label", alpha=0.5, seed=0),
        partitioner.LinearPartitioner(3),
    ):
        parts = by_partitioner(targets, 3, made)
        assert torch.sort(torch.cat(parts)).values.tolist() == list(range(600))
    with pytest.raises(MarketError, match="no part for each of 5 agents"):
        by_partitioner(targets, 5, partitioner.IidPartitioner(3))
