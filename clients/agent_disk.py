"""An agent's own disk: its model after every round, its memory, and a journal of its receipts."""

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord

from clients.faults import one_line
from fl_market.errors import MarketError
from fl_market.files import create_folder, synchronise, write_whole
from fl_market.protocol import Receipt

if TYPE_CHECKING:  # most messages need neither PyTorch nor a database: see client_app.py
    from fl_market.ledger import SignedHead
    from fl_market.parameters import StateDict

MODEL, RECEIPTS = "model.safetensors", "receipts.jsonl"
MEMORIES_KEPT = 3
"""A broker that crashed may come back with an earlier model, which needs the memory beside it."""


class AgentDisk:
    """One agent's folder. All that a method has written survives a crash after it returns.

    Parameters
    ----------
    folder
        It is created if it is missing.

    Raises
    ------
    MarketError
        If it cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with _writing(folder):
            create_folder(folder)

    def save_model(self, state: "StateDict", run: int, market_round: int) -> None:
        """Write the model, whole or not at all, with its SHA-256 and the round that it comes from.

        Raises
        ------
        MarketError
            If it cannot be written.
        """
        from safetensors.torch import save

        from fl_market.parameters import digest

        tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
        about = {"run": str(run), "round": str(market_round), "sha256": digest(state)}
        with _writing(self._folder):
            write_whole(self._folder / MODEL, save(tensors, metadata=about))

    def save_memory(self, memory: Mapping[str, ConfigRecord], model_digest: str) -> None:
        """Write the agent's memory beside a model, whole or not at all.

        Parameters
        ----------
        memory
            Record -> its content, in plain types: optimiser, quotes, purchases.
        model_digest
            SHA-256 of the model.

        Raises
        ------
        MarketError
            If it cannot be written.
        """
        import torch

        buffer = io.BytesIO()
        torch.save({"model": model_digest, "records": {name: dict(record) for name, record in memory.items()}}, buffer)
        with _writing(self._folder):
            write_whole(self._folder / _memory_name(model_digest), buffer.getvalue())
            by_age = sorted(self._folder.glob(_memory_name("*")), key=lambda path: path.stat().st_mtime_ns)
            for old in by_age[:-MEMORIES_KEPT]:
                old.unlink()

    def memory_beside(self, model_digest: str) -> dict[str, ConfigRecord]:
        """Return the agent's memory beside this model; nothing if it was kept beside another.

        Raises
        ------
        MarketError
            If the file is damaged.
        """
        path = self._folder / _memory_name(model_digest)
        if not path.exists():
            return {}
        import torch

        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
            records = kept["records"] if kept["model"] == model_digest else {}
            return {name: ConfigRecord(dict(record)) for name, record in records.items()}
        except Exception as error:  # a damaged file may hold anything
            raise MarketError(
                f"the agent's memory file {path} is damaged; delete it to go on without that memory ({one_line(error)})"
            ) from error

    def note(self, receipts: Sequence[Receipt], run: int, head: "SignedHead | None" = None) -> None:
        """Append receipts to the journal, each with the ledger's head; none is repeated.

        Raises
        ------
        MarketError
            If they cannot be written, or the journal is damaged.
        """
        proof = {} if head is None else {"head": asdict(head)}
        known = {(entry["run"], entry["deal"], entry["side"]) for entry in self.receipts()}
        lines = [
            json.dumps({"run": str(run), "round": receipt.round, **asdict(receipt), **proof}) + "\n"
            for receipt in receipts
            if (str(run), receipt.deal, receipt.side) not in known
        ]
        if lines:
            with _writing(self._folder):
                with (self._folder / RECEIPTS).open("a+b") as file:
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)  # a line that a crash cut off
                    file.write("".join(lines).encode())
                    file.flush()
                    os.fsync(file.fileno())
                synchronise(self._folder)

    def receipts(self) -> list[dict[str, Any]]:
        """Return the journal's entries, but for a last line that a crash cut off.

        Raises
        ------
        MarketError
            If the journal cannot be read or is damaged.
        """
        from fl_market.ledger import read_receipts

        path = self._folder / RECEIPTS
        return read_receipts(path) if path.exists() else []

    def spent(self) -> int:
        """Return the total price of all purchases in micro-credits."""
        return sum(int(entry["price"]) for entry in self._purchases())

    def _purchases(self) -> list[dict[str, Any]]:
        return [entry for entry in self.receipts() if entry["side"] == "bought"]


def _memory_name(model_digest: str) -> str:
    return f"memory-{model_digest[:16]}.pt"


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MarketError(f"the agent's folder {folder} cannot be written: {error.strerror or error}") from error
