"""Invalid data, tasks and folders: the command line prints one sentence and changes no file."""

import gzip
import re

import pytest

from fl_market.cli import main

pytestmark = pytest.mark.flower
TASK = """
from dataclasses import replace

from torch import nn

from fl_market.tasks import load_task


def raises(options):
    raise RuntimeError("no data today")


def wide(options):
    return replace(load_task("mnist-mlp", options), build=lambda classes: nn.Linear(7, classes))


def cropped(options):
    task = load_task("mnist-mlp", options)
    inputs, targets = task.agents[1]
    return replace(task, agents=(task.agents[0], (inputs[:, :, :20], targets)))


def one_class_less(options):
    task = load_task("mnist-mlp", options)
    kept = task.broker[1] != 7
    return replace(task, broker=tuple(part[kept] for part in task.broker))
"""


@pytest.fixture
def earlier(tmp_path):
    """A folder that holds an earlier run, and what it held."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "results.json").write_text("{}")
    (folder / "ledger-market.db").write_text("an old ledger")
    return folder


@pytest.fixture
def refused(earlier, capsys):
    """A function that runs a failing comparison and returns its sentence.

    It checks exit status 1, and that the earlier run is unchanged.
    """

    def run(*arguments):
        before = {path.name: path.read_text() for path in earlier.iterdir()}
        status = main(["compare", "--arms", "siloed,market", "--out", str(earlier), "--overwrite", *arguments])
        out, err = capsys.readouterr()
        assert (status, out) == (1, "")
        (line,) = err.splitlines()
        assert line.startswith("fl-market: ")
        assert {path.name: path.read_text() for path in earlier.iterdir()} == before
        return line.removeprefix("fl-market: ")

    return run


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("raises", r"the task .*mine\.py:raises cannot be made: RuntimeError: no data today"),
        (
            "wide",
            r"the model of mnist-mlp does not accept inputs of shape \(2, 1, 28, 28\) .*: RuntimeError: .*",
        ),
        (
            "cropped",
            r"the inputs of agent B's data in mnist-mlp have shape \(1, 20, 28\) .* have shape \(1, 28, 28\) .*",
        ),
        ("one_class_less", r"the broker's data in mnist-mlp has no sample of class 7"),
    ],
)
def test_a_task_that_cannot_be_used(refused, tmp_path, function, sentence):
    (tmp_path / "mine.py").write_text(TASK)
    assert re.fullmatch(sentence, refused("--task", f"{tmp_path / 'mine.py'}:{function}"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--broker-samples", "9"], r"broker-samples must be from 10 to 1499, .*; got 9"),
        (["--train-samples", "99999"], r"train-samples must be from 10 to 5999, .*; got 99999"),
        (
            ["--scarce-share", "0", "--labels", "0,1;0,1"],
            r"agent A has no training samples of its classes 0,1; change labels or partition",
        ),
        (["--labels", "0,1;8,12"], r"agent B: .*12.*"),
        (["--profile", "0,1;12"], r"agent B: .*12.*"),
        (
            ["--broker-samples", "198"],
            r"the certify split must have at least 100 samples; got 99 of the broker's 198: .*",
        ),
        (["--fit-samples", "1401"], r"the certify split .* got 99 of the broker's 1500: .* or lower fit-samples"),
        (["--validation-samples", "5000"], r"agent A: validation-samples .*"),
        (["--local-data", "/nowhere.npz"], r"agent A: local-data .*/nowhere\.npz.*"),
        (["--data-dir", "/nowhere"], r"MNIST cannot be read from /nowhere: train-images-idx3-ubyte: .*"),
    ],
)
def test_data_that_is_too_little_or_missing(refused, options, sentence):
    assert re.fullmatch(sentence, refused(*options))


def test_an_agent_without_a_sample(refused, tmp_path):
    (tmp_path / "mine.py").write_text(
        TASK + "\n\ndef empty(options):\n    task = load_task('mnist-mlp', options)\n"
        "    return replace(task, agents=(task.agents[0], tuple(part[:0] for part in task.agents[1])))\n"
    )
    sentence = refused("--task", f"{tmp_path / 'mine.py'}:empty")
    assert sentence == "agent B has no training samples; raise train-samples or scarce-share, or lower agents"


def test_a_corrupt_data_file(refused, tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"no images"))
    sentence = refused("--data-dir", str(tmp_path / "data"))
    assert f"cannot be read from {tmp_path / 'data'}: train-images-idx3-ubyte.gz: it does not hold" in sentence


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_is_none(tmp_path, capsys, place):
    (tmp_path / "file").write_text("not a folder")
    assert main(["compare", "--arms", "siloed", "--rounds", "1", "--out", str(tmp_path / place)]) == 1
    assert capsys.readouterr().err.startswith(f"fl-market: the folder {tmp_path / place} cannot be created: ")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_folder_that_cannot_be_read(tmp_path, capsys, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", denied)
    assert main(["compare", "--arms", "siloed", "--rounds", "1", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"fl-market: the folder {tmp_path} cannot be cleared: Permission denied\n"


def test_results_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "results.json.unfinished").mkdir()
    assert main(["compare", "--arms", "siloed", "--rounds", "1", "--quiet", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"fl-market: {tmp_path / 'results.json'} cannot be written: Is a directory\n"
