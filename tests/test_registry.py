"""The registry: a name belongs to a key, and to nobody who merely claims it."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fl_market.cli import main
from fl_market.errors import MarketError
from fl_market.ledger import Ledger
from fl_market.registry import Registry, fingerprint
from fl_market.run_folder import AGENTS


def made(kind=lambda: ec.generate_private_key(ec.SECP384R1())):
    """Return one public key in OpenSSH's format and in PEM."""
    key = kind().public_key()
    return (
        key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b" someone@somewhere\n",
        key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


@pytest.mark.parametrize("kind", [lambda: ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate])
def test_a_key_has_one_fingerprint_in_either_format(kind):
    ssh, pem = made(kind)
    assert fingerprint(ssh) == fingerprint(pem) != fingerprint(made(kind)[0])
    for nonsense in (b"", b"ssh-ed25519 nonsense", b"-----BEGIN PUBLIC KEY-----"):
        with pytest.raises(MarketError, match="must be in OpenSSH's format or in PEM"):
            fingerprint(nonsense)


def test_only_the_registered_key_owns_a_name(tmp_path):
    (ssh, pem), (other, _) = made(), made()
    registry = Registry().with_agent("A", ssh)
    assert registry.owner("A", pem) == fingerprint(ssh)
    for name, key, complaint in (
        ("A", other, "claims to be agent A, whose registered key is another"),
        ("A", b"", "claims to be agent A, whose registered key is another"),
        ("B", pem, "claims to be agent B, which is not registered"),
    ):
        with pytest.raises(MarketError, match=complaint):
            registry.owner(name, key)
    registry.write(tmp_path / "agents.json")
    assert Registry.read(tmp_path / "agents.json") == registry
    with pytest.raises(MarketError, match="the agent A is registered; remove it first"):
        registry.with_agent("A", other)
    with pytest.raises(MarketError, match="this key is that of the agent A: a key has one name"):
        registry.with_agent("B", pem)
    with pytest.raises(MarketError, match="an agent's name must be"):
        registry.with_agent("../A", other)
    assert registry.without("A") == Registry()
    with pytest.raises(MarketError, match="no agent B is registered; known are A"):
        registry.without("B")


@pytest.mark.parametrize("text", ["", "[]", '{"agents": []}', '{"agents": {"A": 1}}'])
def test_a_file_that_is_no_registry_is_named(tmp_path, text):
    path = tmp_path / "agents.json"
    path.write_text(text)
    with pytest.raises(MarketError, match=r"agents.json is not a registry of agents"):
        Registry.read(path)
    with pytest.raises(MarketError, match="cannot be read: No such file"):
        Registry.read(tmp_path / "none.json")


def test_an_operator_registers_and_funds_agents_on_the_command_line(tmp_path, capsys, monkeypatch):
    key, registry, url = tmp_path / "north.pub", tmp_path / "agents.json", f"sqlite:///{tmp_path}/market.db"
    key.write_bytes(made()[0])
    monkeypatch.setenv(AGENTS, str(registry))
    assert main(["agents", "add", "A", str(key)]) == 0
    assert main(["agents", "list"]) == 0
    line = f"A: {fingerprint(key.read_bytes())}"
    assert capsys.readouterr().out.splitlines() == [line, line]
    assert json.loads(registry.read_text()) == {"agents": {"A": fingerprint(key.read_bytes())}}
    for amount, balance in (("2.5", "2.500000"), ("1", "3.500000")):
        assert main(["ledger", "fund", "A", amount, "--db", url, "--memo", "contract 7"]) == 0
        assert f"A has {balance} credits" in capsys.readouterr().out
    with Ledger.open_existing(url) as ledger:
        assert ledger.verify() == []
        assert [(entry.step, entry.amount) for entry in ledger.entries()] == [
            ("endowed", 0),
            ("funded", 2_500_000),
            ("funded", 1_000_000),
        ]
        assert ledger.open_account("A", 0, fingerprint(key.read_bytes())) == 3_500_000, "its owner is the key"
    assert main(["ledger", "fund", "B", "1", "--db", url]) == 1
    assert "no agent B is registered" in capsys.readouterr().err
    assert main(["ledger", "fund", "A", "-1", "--db", url]) == 1
    assert main(["agents", "remove", "A"]) == 0
    assert main(["agents", "remove", "A"]) == 1
    monkeypatch.delenv(AGENTS)
    assert main(["agents", "list"]) == 2
    assert "--registry must name the registry" in capsys.readouterr().err
