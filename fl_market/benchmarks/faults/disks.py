"""Disks that lose what was not synchronised when their machine crashes.

A file's content is safe once the file was synchronised, and a name in a folder once the folder was:
that is all that POSIX promises. What else was written may survive a crash or not; the seed decides.
SQLite synchronises through its own code, which Python does not see. Its promise in WAL mode stands
in for it: with ``synchronous=FULL`` no committed transaction is lost, with less all those after the
last checkpoint may be.
"""

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
from sqlalchemy import Connection, Engine, event

LEDGER = "ledger.db"
FULL = 2
"""The weakest setting of SQLite's ``synchronous`` that keeps each commit."""

Tree = Mapping[str, "bytes | Tree"]
"""Name -> content of a file, or the tree of a folder."""


@dataclass
class Disks:
    """The disks of all machines, each below a folder of its own.

    Files and folders are known by their inodes, which stay in use while this object exists.

    Attributes
    ----------
    dice
        Decides what survives of all that was not synchronised.
    """

    dice: np.random.Generator
    _contents: dict[int, bytes] = field(default_factory=dict)
    _names: dict[int, dict[str, int]] = field(default_factory=dict)
    _descriptors: dict[int, int] = field(default_factory=dict)
    _synchronous: int = FULL

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the synchronisations of this process inside the block."""

        def note_mode(connection: Connection) -> None:
            if connection.engine.dialect.name == "sqlite":
                self._synchronous = int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())

        event.listen(Engine, "commit", note_mode)
        try:
            with mock.patch.object(os, "fsync", self.synchronise):
                yield
        finally:
            event.remove(Engine, "commit", note_mode)
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()

    def synchronise(self, descriptor: int) -> None:
        """Make a file's content safe, or the names in a folder; stands in for ``os.fsync``."""
        about = os.fstat(descriptor)
        if about.st_ino not in self._descriptors:
            self._descriptors[about.st_ino] = os.dup(descriptor)  # else its number could be used again
        if stat.S_ISDIR(about.st_mode):
            with os.scandir(descriptor) as entries:
                self._names[about.st_ino] = {entry.name: entry.inode() for entry in entries}
        else:
            self._contents[about.st_ino] = _read(descriptor)

    def survivors(self, root: Path) -> Tree:
        """Return what a crash at this moment leaves below a folder."""
        return self._below(root.stat().st_ino, root)

    def restore(self, root: Path, tree: Tree) -> None:
        """Replace all below a folder, as at the next start of its machine; all of it is safe."""
        shutil.rmtree(root)
        self._write(root, tree)

    def _below(self, inode: int, folder: Path | None) -> Tree:
        entries = {entry.name: entry for entry in os.scandir(folder)} if folder is not None else {}
        now = {name: entry.inode() for name, entry in entries.items()}
        if LEDGER in now:
            return self._ledger(entries)
        safe, tree = self._names.get(inode, {}), dict[str, bytes | Tree]()
        for name in sorted({*now, *safe}):
            found = [now.get(name), safe.get(name)][int(self.dice.integers(2))]
            if found is None:
                continue
            path = Path(entries[name].path) if found == now.get(name) else None
            if found in self._names or (path is not None and path.is_dir()):
                tree[name] = self._below(found, path)
            else:
                tree[name] = self._content(found, path)
        return tree

    def _content(self, inode: int, path: Path | None) -> bytes:
        safe = self._contents.get(inode, b"")
        now = safe if path is None else path.read_bytes()
        if now == safe:
            return safe
        cut = now[: int(self.dice.integers(len(now) + 1))]
        return [safe, cut, now][int(self.dice.integers(3))]

    def _ledger(self, entries: Mapping[str, "os.DirEntry[str]"]) -> Tree:
        """Return a ledger's files. Its folder holds nothing else that must survive a crash."""
        log = f"{LEDGER}-wal"
        names = [LEDGER, log] if self._synchronous >= FULL else [LEDGER]
        return {name: Path(entries[name].path).read_bytes() for name in names if name in entries}

    def _write(self, folder: Path, tree: Tree) -> None:
        folder.mkdir()
        for name, content in tree.items():
            path = folder / name
            if isinstance(content, bytes):
                path.write_bytes(content)
                self._synchronise_path(path)
            else:
                self._write(path, content)
        self._synchronise_path(folder)

    def _synchronise_path(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            self.synchronise(descriptor)
        finally:
            os.close(descriptor)


def _read(descriptor: int) -> bytes:
    """Return a whole file's content, also of one that is open for writing only."""
    path = Path(f"/dev/fd/{descriptor}")
    return path.read_bytes()
