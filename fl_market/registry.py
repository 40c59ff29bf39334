"""The registry: which agent's name belongs to which public key.

The operator writes it, and the broker seats a node only under the name of the key with which the
node authenticates. A name cannot be squatted, nor a seat stolen after a crash, and an account with
its debts and history belongs to the key, whatever node or run it comes back in.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from fl_market.errors import MarketError
from fl_market.files import write_whole
from fl_market.naming import check_agent_name


def fingerprint(public_key: bytes) -> str:
    """Return the SHA-256 of a public key, in hexadecimal digits.

    Parameters
    ----------
    public_key
        In OpenSSH's format, as ``ssh-keygen`` writes it, or in PEM, as Flower keeps it.

    Raises
    ------
    MarketError
        If it is no public key.
    """
    load = load_ssh_public_key if public_key.lstrip().startswith((b"ssh-", b"ecdsa-", b"sk-")) else load_pem_public_key
    try:
        key = load(public_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MarketError("a public key must be in OpenSSH's format or in PEM") from error
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


@dataclass(frozen=True)
class Registry:
    """Agents and their keys.

    Attributes
    ----------
    keys
        Name of an agent -> fingerprint of its public key; each key has one name.
    """

    keys: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the registry in a file.

        Raises
        ------
        MarketError
            If the file cannot be read, or is no registry.
        """
        try:
            keys = json.loads(path.read_text(encoding="utf-8"))["agents"]
            if not all(isinstance(name, str) and isinstance(key, str) for name, key in keys.items()):
                raise TypeError
        except OSError as error:
            raise MarketError(f"the registry {path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MarketError(f"{path} is not a registry of agents, which fl-market agents add writes") from error
        return cls(keys)

    def write(self, path: Path) -> None:
        """Write the registry, whole or not at all.

        Raises
        ------
        MarketError
            If it cannot be written.
        """
        try:
            write_whole(path, (json.dumps({"agents": dict(sorted(self.keys.items()))}, indent=1) + "\n").encode())
        except OSError as error:
            raise MarketError(f"the registry {path} cannot be written: {error.strerror}") from error

    def with_agent(self, name: str, public_key: bytes) -> "Registry":
        """Return the registry with one more agent.

        Raises
        ------
        MarketError
            If the name is invalid or taken, or the key has a name already.
        """
        check_agent_name(name)
        key = fingerprint(public_key)
        if name in self.keys:
            raise MarketError(f"the agent {name} is registered; remove it first to give it another key")
        if known := [other for other, used in self.keys.items() if used == key]:
            raise MarketError(f"this key is that of the agent {known[0]}: a key has one name")
        return Registry({**self.keys, name: key})

    def without(self, name: str) -> "Registry":
        """Return the registry without an agent: its key has no seat any more.

        Raises
        ------
        MarketError
            If there is none of this name.
        """
        if name not in self.keys:
            raise MarketError(f"no agent {name} is registered; known are {', '.join(sorted(self.keys)) or 'none'}")
        return Registry({other: key for other, key in self.keys.items() if other != name})

    def owner(self, name: str, public_key: bytes) -> str:
        """Return the owner of an agent's account: the fingerprint of its key.

        Raises
        ------
        MarketError
            If the key is not the one that is registered for the name.
        """
        if name not in self.keys:
            raise MarketError(f"it claims to be agent {name}, which is not registered")
        if not public_key or fingerprint(public_key) != self.keys[name]:
            raise MarketError(f"it claims to be agent {name}, whose registered key is another")
        return self.keys[name]
