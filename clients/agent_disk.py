"""What an agent keeps on its own disk: its model after every round, and a journal of its receipts."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save

from fl_market.errors import MarketError
from fl_market.ledger import read_receipts
from fl_market.parameters import StateDict, digest
from fl_market.protocol import Receipt

MODEL, RECEIPTS = "model.safetensors", "receipts.jsonl"


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
        unfinished = self._folder / f"{MODEL}.unfinished"
        with _writing(self._folder):
            with unfinished.open("wb") as file:
                file.write(save(tensors, metadata=about))
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._folder / MODEL)

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
            with _writing(self._folder), (self._folder / RECEIPTS).open("a", encoding="utf-8") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())

    def receipts(self) -> list[dict[str, Any]]:
        """Return the journal's entries; a last line that was cut off while it was written is left out."""
        path = self._folder / RECEIPTS
        return read_receipts(path) if path.exists() else []

    def spent(self) -> int:
        """Return what all purchases cost, in micro-credits."""
        return sum(int(entry["price"]) for entry in self.receipts() if entry["side"] == "bought")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MarketError(f"the agent's folder {folder} cannot be written: {error.strerror or error}") from error
