"""Plain ``flwr run .``, as with any Flower app."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fl_market.cli import main
from tests.processes import end_processes_of
from tests.terms import PUBLISHED, PUBLISHED_FLAGS

pytestmark = [
    pytest.mark.flower,
    pytest.mark.long,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to end Flower's local SuperLink by its own id"),
]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def flower_home(tmp_path):
    """A separate Flower home; the teardown ends the local SuperLink that ``flwr run`` leaves."""
    home = tmp_path / "flower"
    home.mkdir()
    yield home
    end_processes_of(home)


def test_flwr_run_gives_what_the_command_line_gives(flower_home, tmp_path):
    environment = os.environ | {
        "FLWR_HOME": str(flower_home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    options = {"strategy": "market-priced", "num-server-rounds": 2, "first-round": 2, "prior": "exponential(1000)"}
    options |= PUBLISHED
    run_config = " ".join(
        f"{key}={json.dumps(value)}" for key, value in (options | {"out-dir": str(tmp_path / "a")}).items()
    )
    done = subprocess.run(
        ["flwr", "run", ".", "--stream", "--run-config", run_config,
         "--federation-config", "num-supernodes=2 client-resources-num-cpus=1"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert (tmp_path / "a" / "results.json").is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    arguments = ["--rounds", "2", "--first-round", "2", "--prior", "exponential(1000)", "--engine", "inline", "--quiet"]
    arguments += PUBLISHED_FLAGS
    assert main(["run", "--strategy", "market-priced", "--out", str(tmp_path / "b"), *arguments]) == 0
    documents = [json.loads((tmp_path / name / "results.json").read_text()) for name in "ab"]
    for document in documents:
        document["arms"]["market-priced"].pop("seconds")
    assert documents[0] == documents[1]
    assert documents[0]["arms"]["market-priced"]["deals"] == 2
