"""End what a test has started, by its own ids."""

import os
import signal
import time
from pathlib import Path

import pytest


def end_processes_of(folder):
    """End every process whose Flower home lies in a folder; fail where one does not end."""
    left = []
    for attempt in range(100):
        left = [pid for pid in _running() if _belongs_to(pid, folder)]
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGTERM if attempt < 50 else signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.2)
    pytest.fail(f"processes of the test are left: {left}")


def _running():
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _belongs_to(pid, folder):
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(entry.startswith(f"FLWR_HOME={folder}".encode()) for entry in environment)
