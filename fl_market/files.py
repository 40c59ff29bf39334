"""Durable files and folders: written whole or not at all, and still there after a crash."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file whole or not at all, and return only when a crash cannot undo it.

    The content goes to ``NAME.unfinished`` in the same folder, which then takes the file's name.
    A reader sees the earlier content or the new one, never a part. If the process or the machine
    stops before this function returns, the file holds one of the two; afterwards it holds the new
    content. An unfinished file that a crash left behind is overwritten by the next write.

    Parameters
    ----------
    path
        The file; its folder must exist.
    content
        The new content.
    mode
        Permissions of a new file, within those that the process allows.

    Raises
    ------
    OSError
        If the file cannot be written; the earlier content is still there.
    """
    unfinished = path.with_name(f"{path.name}.unfinished")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # before the rename: else the name may survive without the content
    unfinished.replace(path)
    synchronise(path.parent)


def create_folder(folder: Path) -> None:
    """Create a folder with those above it, so that it is still there after a crash.

    A file in it may be durable in vain: a crash can lose the folder's own name, and all below it.

    Raises
    ------
    OSError
        If it cannot be created.
    """
    if not folder.is_dir():
        create_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        synchronise(folder.parent)


def synchronise(folder: Path) -> None:
    """Make a folder's entries durable: a new, renamed or removed file stays so after a crash.

    The content of the files is not covered; each needs its own ``fsync``.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be synchronised.
    """
    synchronise_file(folder)


def synchronise_file(path: Path) -> None:
    """Make a file's content durable; a new name in its folder is not covered.

    Raises
    ------
    OSError
        If the file does not exist or cannot be synchronised.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
