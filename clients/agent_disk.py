"""What an agent keeps on its own disk: its model after every round, what it remembers, and a journal of receipts."""

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from fl_market.errors import MarketError
from fl_market.ledger import read_receipts
from fl_market.parameters import StateDict, digest
from fl_market.protocol import Receipt

MODEL, RECEIPTS = "model.safetensors", "receipts.jsonl"
MEMORIES_KEPT = 3
"""A broker that crashed may come back with an earlier model, and the agent with what it remembered then."""
Memory = Mapping[str, Mapping[str, Any]]
"""Record -> what it holds, in plain types: optimiser, quotes, what was spent."""


class AgentDisk:
    """One agent's folder.

    Parameters
    ----------
    folder
        It is made where it is missing.

    Raises
    ------
    MarketError
        If it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def save_model(self, state: StateDict, run: int, market_round: int) -> None:
        """Write the model, whole or not at all, with its SHA-256 and the round that it comes from.

        Raises
        ------
        MarketError
            If it cannot be written.
        """
        tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
        about = {"run": str(run), "round": str(market_round), "sha256": digest(state)}
        self._write(MODEL, save(tensors, metadata=about))

    def save_memory(self, memory: Memory, model_digest: str) -> None:
        """Write what the agent remembers beside a model, whole or not at all.

        Raises
        ------
        MarketError
            If it cannot be written.
        """
        buffer = io.BytesIO()
        torch.save({"model": model_digest, "records": {name: dict(record) for name, record in memory.items()}}, buffer)
        name = _memory_name(model_digest)
        self._write(name, buffer.getvalue())
        with _writing(self._folder):
            by_age = sorted(self._folder.glob(_memory_name("*")), key=lambda path: path.stat().st_mtime_ns)
            for old in by_age[:-MEMORIES_KEPT]:
                old.unlink()

    def memory_beside(self, model_digest: str) -> Memory:
        """Return what the agent remembered when it had this model; nothing where it had another.

        Raises
        ------
        MarketError
            If the file cannot be read.
        """
        path = self._folder / _memory_name(model_digest)
        if not path.exists():
            return {}
        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
            return dict(kept["records"]) if kept["model"] == model_digest else {}
        except Exception as error:  # whatever became of the file
            raise MarketError(f"the agent's memory cannot be read from {path}: {error}") from error

    def note(self, receipts: Sequence[Receipt], run: int, market_round: int) -> None:
        """Append receipts to the journal; one that it holds already is not noted twice.

        Raises
        ------
        MarketError
            If they cannot be written.
        """
        known = {(entry["run"], entry["deal"], entry["side"]) for entry in self.receipts()}
        lines = [
            json.dumps({"run": str(run), "round": market_round, **asdict(receipt)}) + "\n"
            for receipt in receipts
            if (str(run), receipt.deal, receipt.side) not in known
        ]
        if lines:
            with _writing(self._folder), (self._folder / RECEIPTS).open("a+b") as file:
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)  # what was cut off while it was written
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())

    def receipts(self) -> list[dict[str, Any]]:
        """Return the journal's entries; a last line that was cut off while it was written is left out."""
        path = self._folder / RECEIPTS
        return read_receipts(path) if path.exists() else []

    def _write(self, name: str, content: bytes) -> None:
        unfinished = self._folder / f"{name}.unfinished"
        with _writing(self._folder):
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._folder / name)

    def spent(self) -> int:
        """Return what all purchases cost, in micro-credits."""
        return sum(int(entry["price"]) for entry in self.receipts() if entry["side"] == "bought")


def _memory_name(model_digest: str) -> str:
    return f"memory-{model_digest[:16]}.pt"


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MarketError(f"the agent's folder {folder} cannot be written: {error.strerror or error}") from error
