"""The systemd units, the image and the compose file of ``docs/deployment.md``."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "scripts" / "deploy" / "systemd").glob("*.service"))
USAGE = {
    "certificates.sh": (3, 99),
    "superlink.sh": (3, 5),
    "operator.sh": (4, 99),
    "supernode.sh": (6, 6),
    "share_secrets.sh": (7, 99),
}
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


@pytest.fixture(scope="module")
def composition():
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def words_of(service):
    command = service["command"]
    return command.split() if isinstance(command, str) else command


def test_the_composition_calls_the_scripts_as_they_are(composition):
    services = composition["services"]
    assert {"superlink", "agent-a", "agent-b"} <= set(services)
    for name, service in services.items():
        assert service["build"] == "."
        if "command" in service:
            check_call(words_of(service))
        assert {volume.split(":")[0] for volume in service["volumes"]} <= set(composition["volumes"])
        assert set(service.get("depends_on", {})) <= set(services), name
        if "agent" in name:
            assert f"/secrets/{name}" in service["command"]
    agents = [name for name in services if "agent-" in name]
    assert words_of(services["register"])[4:] == agents
    users = dict(word.split("=") for word in words_of(services["secrets"])[5:])
    assert list(users) == ["broker", "operator", *agents]
    assert words_of(services["secrets"])[2] == "superlink", "the name that its certificate is for"


def test_services_share_no_user_no_secret_and_no_state(composition):
    services = composition["services"]
    parties = {"broker": ["superlink"], "operator": ["register", "operator"]} | {
        name: [name] for name in services if "agent-" in name
    }
    users = dict(word.split("=") for word in words_of(services["secrets"])[5:])
    for party, members in parties.items():
        for member in members:
            service = services[member]
            assert service["volumes"] == [f"{party}-secrets:/secrets:ro", f"{party}:/state"]
            assert service["user"] == f"{users[party]}:{users[party]}"
            assert service["cap_drop"] == ["ALL"]
            assert service["environment"]["HOME"] == "/state", "its user has no home in the image"
    assert len(set(users.values())) == len(users)
    assert set(parties) | {"secrets"} == set(users) | {"secrets"}
    assert services["secrets"]["network_mode"] == "none"


def test_agents_reach_the_broker_alone_and_not_its_control_port(composition):
    services = composition["services"]
    networks = {name: set(service.get("networks", ())) for name, service in services.items()}
    agents = [name for name in services if "agent-" in name]
    for agent in agents:
        assert networks[agent] <= networks["superlink"]
        assert not any(networks[agent] & networks[other] for other in services if other not in (agent, "superlink"))
    control = services["superlink"]["networks"]["control"]["ipv4_address"]
    assert services["superlink"]["environment"]["FL_MARKET_CONTROL_HOST"] == control
    assert control in services["superlink"]["healthcheck"]["test"][-1]
    script = (ROOT / "scripts" / "deploy" / "superlink.sh").read_text()
    assert '--host "${FL_MARKET_CONTROL_HOST:-$host}" --port "$control" --fleet-api-address "$host:$nodes"' in script


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to users")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, which makes the certificates")
@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen, which makes the nodes' keys")
def test_each_service_is_given_its_own_secrets(tmp_path, composition):
    _, _, host, *_ = words = words_of(composition["services"]["secrets"])
    services = words[5:]
    script = ROOT / "scripts" / "deploy" / "share_secrets.sh"
    authority, secrets, states = (tmp_path / name for name in ("authority", "secrets", "states"))
    for _ in range(2):  # a second start renews
        done = subprocess.run(
            [script, authority, host, secrets, states, *services], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    given = {folder.name: {file.name for file in folder.iterdir()} for folder in secrets.iterdir()}
    assert given == {
        "broker": {"ca.crt", "server.pem", "server.key"},
        "operator": {"ca.crt", "agent-a.pub", "agent-b.pub"},
        "agent-a": {"ca.crt", "agent-a"},
        "agent-b": {"ca.crt", "agent-b"},
    }
    for service in services:
        name, user = service.split("=")
        for path in ((secrets / name), *(secrets / name).iterdir(), states / name):
            assert path.stat().st_uid == int(user)
            assert path.stat().st_mode & 0o077 == 0


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
