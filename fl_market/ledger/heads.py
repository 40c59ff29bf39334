"""Signed heads: agents hold what the operator cannot take back.

The hash chain of a journal shows an edit, but not a history that its operator wrote anew and
sealed again. Here the entries are the leaves of a Merkle tree (RFC 6962, section 2.1). Its *head*,
the number of entries and the root, is signed with Ed25519 (RFC 8032) and travels with the receipts.
Any later history that does not begin with exactly these entries has another root, so that one
honest agent's journal shows a rewritten, shortened or forked ledger, offline.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from fl_market.errors import MarketError
from fl_market.files import write_whole

LEAF, NODE = b"\x00", b"\x01"
"""First byte of what is hashed: no inner node can pass for an entry."""
PURPOSE = b"fl-market ledger head\n"
"""Begins each signed text, so that the signature is of no use elsewhere."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of one leaf."""
    return hashlib.sha256(LEAF + data).digest()


@dataclass
class Tree:
    """A growing Merkle tree, of which only the roots of its complete subtrees are kept.

    Attributes
    ----------
    size
        Number of leaves.
    peaks
        Roots of the complete subtrees, from the largest to the smallest: as many as the size has
        binary ones. Each leaf costs two hashes on average.

    Examples
    --------
    >>> tree = Tree()
    >>> tree.root().hex()[:16]  # of nothing
    'e3b0c44298fc1c14'
    >>> tree.extend([b""])
    >>> tree.root().hex()[:16]
    '6e340b9cffb37a98'
    """

    size: int = 0
    peaks: list[bytes] = field(default_factory=list)

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append leaves."""
        for data in leaves:
            node, full = leaf_hash(data), self.size
            while full & 1:
                node, full = _joined(self.peaks.pop(), node), full >> 1
            self.peaks.append(node)
            self.size += 1

    def root(self) -> bytes:
        """Return the root, 32 bytes."""
        if not self.peaks:
            return hashlib.sha256().digest()
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = _joined(peak, root)
        return root


def _joined(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(NODE + left + right).digest()


@dataclass(frozen=True)
class Head:
    """The state of a ledger's journal.

    Attributes
    ----------
    size
        Number of entries.
    root
        Root of their Merkle tree, in hexadecimal digits.
    """

    size: int
    root: str

    def text(self) -> bytes:
        """Return the signed text."""
        return PURPOSE + f"{self.size} {self.root}".encode()


@dataclass(frozen=True)
class SignedHead:
    """A head, signed by the operator of the ledger.

    Attributes
    ----------
    size, root
        The head.
    key, signature
        The operator's public key and its signature, in hexadecimal digits.
    """

    size: int
    root: str
    key: str
    signature: str

    @property
    def head(self) -> Head:
        """The head alone."""
        return Head(self.size, self.root)

    @property
    def valid(self) -> bool:
        """Whether the signature is that of the key on this head."""
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.key))
            key.verify(bytes.fromhex(self.signature), self.head.text())
        except (InvalidSignature, ValueError):
            return False
        return True


class Signer:
    """The operator's signature on heads.

    Parameters
    ----------
    key
        The private key; by default a new one.

    Examples
    --------
    >>> Signer().sign(Head(0, "e3b0")).valid
    True
    """

    def __init__(self, key: Ed25519PrivateKey | None = None) -> None:
        self._key = key or Ed25519PrivateKey.generate()

    @classmethod
    def at(cls, path: Path) -> Self:
        """Return the signer with the key in a PEM file; a new key is written if there is none.

        Raises
        ------
        MarketError
            If the file cannot be read or written, or holds no Ed25519 key.
        """
        try:
            if not path.exists():
                made = cls()
                pem = made._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
                write_whole(path, pem, mode=0o600)
                return made
            key = load_pem_private_key(path.read_bytes(), None)
        except OSError as error:
            raise MarketError(f"the ledger's key {path} cannot be read or written: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise MarketError(f"the ledger's key {path} must be an Ed25519 key in PEM without a password") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise MarketError(f"the ledger's key {path} must be an Ed25519 key; got another kind")
        return cls(key)

    @property
    def public_key(self) -> str:
        """The public key in hexadecimal digits."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign(self, head: Head) -> SignedHead:
        """Return the signed head."""
        return SignedHead(head.size, head.root, self.public_key, self._key.sign(head.text()).hex())


def rewritten(heads: Sequence[SignedHead], hashes: Iterable[str], key: str = "") -> list[str]:
    """Return what is wrong between the heads that agents hold and a ledger, one sentence each.

    Parameters
    ----------
    heads
        Signed heads, in any order.
    hashes
        Hashes of the ledger's entries in their order, in hexadecimal digits.
    key
        The operator's public key as the agent knows it from elsewhere; by default, all heads must
        have the same one.
    """
    problems = []
    expected = key or (heads[0].key if heads else "")
    if any(head.key != expected for head in heads):
        problems.append("the heads are signed with different keys" if not key else f"a head has another key than {key}")
    problems += [f"the signature of the head of {head.size} entries is invalid" for head in heads if not head.valid]
    roots: dict[int, set[str]] = {}
    for head in heads:
        roots.setdefault(head.size, set()).add(head.root)
    problems += [
        f"the operator signed {len(some)} histories of {size} entries"
        for size, some in sorted(roots.items())
        if len(some) > 1
    ]
    tree, leaves = Tree(), iter(hashes)
    for size, some in sorted(roots.items()):
        tree.extend(map(bytes.fromhex, islice(leaves, size - tree.size)))
        if tree.size < size:
            problems.append(f"the ledger has {tree.size} entries, but a signed head has {size}: entries were removed")
            break
        if some != {tree.root().hex()}:
            problems.append(f"the first {size} entries are not those of a signed head: the history was rewritten")
            break
    return problems
