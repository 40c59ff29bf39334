"""The Flower app bundle: what ``flwr run`` ships to the nodes."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fl_market.tasks.sample import FILE, PARTS

pytestmark = pytest.mark.flower
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    flwr = Path(sys.executable).with_name("flwr")
    done = subprocess.run([flwr, "build", "--app", ROOT], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = [*folder.glob("*.fab"), *ROOT.glob("*.fab")]
    target = path.rename(folder / "app.zip")
    with zipfile.ZipFile(target) as archive:
        archive.extractall(folder / "app")
    return folder / "app"


def test_the_sample_reaches_the_bundle_whole(bundle):
    for part in PARTS:
        file = Path("fl_market", "tasks", FILE.format(part=part))
        assert (bundle / file).read_bytes() == (ROOT / file).read_bytes()


def test_the_bundle_runs_without_the_repository(bundle):
    code = (
        "import fl_market, sys; assert fl_market.__file__.startswith(sys.argv[1]), fl_market.__file__;"
        "from strategies.server_app import app; from clients.client_app import app;"
        "from fl_market.configuration import Configuration; print(len(Configuration().load_task().test[0]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle)], cwd=bundle, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(bundle), "PATH": ""},
    )  # fmt: skip
    assert done.stdout.strip() == "2000", done.stderr


def test_the_bundle_holds_nothing_else(bundle):
    rooms = {path.relative_to(bundle).parts[0] for path in bundle.rglob("*") if path.is_file()}
    assert {"fl_market", "strategies", "clients", "pyproject.toml"} <= rooms
    assert not rooms & {"tests", "scripts", "runs", "docs"}
