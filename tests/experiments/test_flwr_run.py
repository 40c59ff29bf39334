"""Plain ``flwr run .``, as with any Flower app."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fl_market.cli import main

pytestmark = [
    pytest.mark.flower,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to end Flower's local SuperLink by its own id"),
]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def flower_home(tmp_path):
    """A Flower home of its own; the local SuperLink that ``flwr run`` leaves running is ended afterwards."""
    home = tmp_path / "flower"
    home.mkdir()
    yield home
    for _ in range(50):
        left = [pid for pid in running() if belongs_to(pid, home)]
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        time.sleep(0.2)
    pytest.fail(f"processes of the test are left: {left}")


def running():
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def belongs_to(pid, home):
    try:
        return f"FLWR_HOME={home}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def test_flwr_run_gives_what_the_command_line_gives(flower_home, tmp_path):
    environment = os.environ | {
        "FLWR_HOME": str(flower_home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    options = {"strategy": "market-priced", "num-server-rounds": 2, "first-round": 2, "prior": "exponential(1000)"}
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
    assert main(["run", "--strategy", "market-priced", "--out", str(tmp_path / "b"), *arguments]) == 0
    documents = [json.loads((tmp_path / name / "results.json").read_text()) for name in "ab"]
    for document in documents:
        document["arms"]["market-priced"].pop("seconds")
    assert documents[0] == documents[1]
    assert documents[0]["arms"]["market-priced"]["deals"] == 2
