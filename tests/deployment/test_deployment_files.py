"""The systemd units, the image and the compose file of ``docs/deployment.md``."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "scripts" / "deploy" / "systemd").glob("*.service"))
USAGE = {"certificates.sh": (3, 99), "superlink.sh": (3, 5), "operator.sh": (4, 99), "supernode.sh": (6, 6)}
"""Script -> fewest and most arguments."""


def check_call(words):
    script = ROOT / words[0].removeprefix("/opt/fl-market/")
    assert script.is_file()
    fewest, most = USAGE[script.name]
    assert fewest <= len(words) - 1 <= most


@pytest.mark.parametrize("script", USAGE)
def test_scripts_say_how_they_are_called(script):
    done = subprocess.run([ROOT / "scripts" / "deploy" / script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"# Usage: {script} ")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, which makes the certificates")
@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen, which makes the nodes' keys")
def test_certificates_are_renewed_under_the_same_authority(tmp_path):
    command = [ROOT / "scripts" / "deploy" / "certificates.sh", tmp_path, "broker.example.org", "one", "two"]
    made = []
    for _ in range(2):
        subprocess.run(command, check=True, capture_output=True)
        made.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    changed = {name for name in made[0] if made[0][name] != made[1][name]}
    assert changed - {"ca.srl"} == {"server.key", "server.pem"}, "nodes keep their keys and what they trust"

    def openssl(*words):
        done = subprocess.run(["openssl", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert openssl("verify", "-CAfile", "ca.crt", "-verify_hostname", "broker.example.org", "server.pem")[0] == 0
    years = 5 * 365 * 86400
    assert openssl("x509", "-checkend", str(years), "-noout", "-in", "ca.crt")[0] == 0, "the authority outlives it"
    assert openssl("x509", "-checkend", str(years), "-noout", "-in", "server.pem")[0] == 1


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_units(unit, tmp_path):
    """Each is verified with this clone in place of /opt/fl-market."""
    (command,) = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    check_call(command.split())
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze to verify a unit")
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/fl-market/scripts", str(ROOT / "scripts")))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    about = [line for line in done.stderr.splitlines() if unit.name in line]
    assert about == [], done.stderr


def test_the_composition_calls_the_scripts_as_they_are():
    composition = yaml.safe_load((ROOT / "compose.yaml").read_text())
    services = composition["services"]
    volumes = set(composition["volumes"])
    assert {"superlink", "agent-a", "agent-b"} <= set(services)
    for name, service in services.items():
        assert service["build"] == "."
        if "command" in service:
            command = service["command"]
            check_call(command.split() if isinstance(command, str) else command)
        assert {volume.split(":")[0] for volume in service["volumes"]} <= volumes
        assert set(service.get("depends_on", {})) <= set(services), name
        if "agent" in name:
            assert f"/certificates/{name}" in service["command"]
            assert f"{name}:/state" in service["volumes"], "an agent's state is its own"
    nodes = services["certificates"]["command"].split()[3:]
    assert services["register"]["command"].split()[4:] == nodes == [name for name in services if "agent-" in name]


def test_the_image_copies_what_there_is():
    text = (ROOT / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert {"fl_market", "clients", "strategies", "scripts", "constraints.txt"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert re.search(r"pip install .*torch\n(?s:.*)pip install .*--editable", text), "torch comes first"


def test_docker_finds_no_fault_in_the_composition():
    if shutil.which("docker") is None:
        pytest.skip("needs docker")
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs docker's compose plugin")
    subprocess.run(["docker", "compose", "--file", ROOT / "compose.yaml", "config", "--quiet"], check=True)
