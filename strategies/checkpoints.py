"""What a broker needs to go on after a crash: one folder for each of the last rounds, written whole or not at all."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fl_market.errors import MarketError
from fl_market.gains import Profile
from fl_market.market.broker import BrokerMemory
from fl_market.parameters import StateDict

STATE, TENSORS = "state.json", "tensors.safetensors"
FORMAT = 4


@dataclass(frozen=True)
class Checkpoint:
    """The market after a round whose deliveries are acknowledged, but not yet settled.

    Attributes
    ----------
    round
        Number of the round.
    models
        Agent -> its current model.
    memory
        What the broker remembers besides.
    settled, refunded
        Ids of the round's deals that are to be settled or refunded: this is done again after a crash, and idempotent.
    history
        The agents' test metrics so far, as :meth:`History.as_json` has them.
    ledger
        Number of the journal's last entry, and its hash.
    pseudonyms
        Agent -> the name under which the others, and the log, know it.
    """

    round: int
    models: Mapping[str, StateDict]
    memory: BrokerMemory
    settled: Sequence[str]
    refunded: Sequence[str]
    history: Mapping[str, Any]
    ledger: tuple[int, str]
    pseudonyms: Mapping[str, str]


class Checkpoints:
    """The checkpoints of one run.

    Parameters
    ----------
    folder
        Where they lie.
    kept
        How many are kept.
    """

    def __init__(self, folder: Path, kept: int = 2) -> None:
        self._folder, self._kept = folder, kept

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then remove those that are too old.

        Raises
        ------
        MarketError
            If it cannot be written; the earlier ones are still there.
        """
        name = f"round-{checkpoint.round:06d}"
        unfinished, finished = self._folder / f"{name}.unfinished", self._folder / name
        replaced = self._folder / f"{name}.replaced"
        tensors = _tensors(checkpoint)
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            _write(unfinished / TENSORS, save(tensors))
            _write(unfinished / STATE, json.dumps(_document(checkpoint), indent=1).encode())
            if finished.exists():  # of a run that was resumed; it counts until its successor is there
                shutil.rmtree(replaced, ignore_errors=True)
                finished.rename(replaced)
            unfinished.rename(finished)
            _synchronise(self._folder)
            shutil.rmtree(replaced, ignore_errors=True)
        except OSError as error:
            raise MarketError(f"the checkpoint {finished} cannot be written: {error.strerror or error}") from error
        for old in self._finished()[: -self._kept]:
            shutil.rmtree(old, ignore_errors=True)

    def last(self) -> Checkpoint | None:
        """Return the last whole checkpoint, or None where there is none.

        Raises
        ------
        MarketError
            If it cannot be read.
        """
        finished = self._finished()
        if not finished:
            return None
        try:
            document = json.loads((finished[-1] / STATE).read_text(encoding="utf-8"))
            tensors = load((finished[-1] / TENSORS).read_bytes())
            if document["format"] != FORMAT:
                raise ValueError(f"its format is {document['format']}, not {FORMAT}")
            return _checkpoint(document, tensors)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise MarketError(f"the checkpoint {finished[-1]} cannot be read: {error}") from error

    def _finished(self) -> list[Path]:
        whole = (path for path in self._folder.glob("round-*") if path.suffix != ".unfinished")
        return sorted(whole, key=lambda path: (path.stem, path.suffix != ".replaced"))


def _tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return all tensors under one name each: what they are, whose, and their own name."""
    named: dict[str, Tensor] = {}
    for agent, model in checkpoint.models.items():
        named |= {f"model\n{agent}\n{name}": tensor for name, tensor in model.items()}
    for agent, models in checkpoint.memory.delivered.items():
        for place, state in enumerate(models):
            named |= {f"delivered\n{agent}\n{place}\n{name}": tensor for name, tensor in state.items()}
    for (first, second), permutation in checkpoint.memory.permutations.items():
        named |= {
            f"permutation\n{first}\n{second}\n{group}": torch.tensor(order) for group, order in permutation.items()
        }
    for agent, profile in checkpoint.memory.profiles.items():
        if profile.validation is not None:
            named |= {f"validation\n{agent}\n{place}": part for place, part in enumerate(profile.validation)}
    # shared or strided memory is no business of a file
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in named.items()}


def _document(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "round": checkpoint.round,
        "profiles": {
            agent: {"labels": profile.labels, "class_weights": profile.class_weights}
            for agent, profile in checkpoint.memory.profiles.items()
        },
        "settled": list(checkpoint.settled),
        "refunded": list(checkpoint.refunded),
        "history": checkpoint.history,
        "ledger": checkpoint.ledger,
        "pseudonyms": dict(checkpoint.pseudonyms),
        "unpaid": checkpoint.memory.unpaid,
        "runs": list(checkpoint.memory.runs),
    }


def _checkpoint(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Checkpoint:
    models: dict[str, dict[str, Tensor]] = {}
    delivered: dict[str, dict[int, dict[str, Tensor]]] = {}
    permutations: dict[tuple[str, str], dict[str, Any]] = {}
    validation: dict[str, dict[int, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, *names = key.split("\n")
        if kind == "permutation":
            permutations.setdefault((names[0], names[1]), {})[names[2]] = tensor.numpy()
        elif kind == "validation":
            validation.setdefault(names[0], {})[int(names[1])] = tensor
        elif kind == "delivered":
            delivered.setdefault(names[0], {}).setdefault(int(names[1]), {})[names[2]] = tensor
        else:
            models.setdefault(names[0], {})[names[1]] = tensor
    profiles = {
        agent: Profile(
            tuple(texts["labels"]),
            tuple(texts["class_weights"]),
            (validation[agent][0], validation[agent][1]) if agent in validation else None,
        )
        for agent, texts in document["profiles"].items()
    }
    in_order = {agent: [some[place] for place in sorted(some)] for agent, some in delivered.items()}
    memory = BrokerMemory(in_order, permutations, profiles, document["unpaid"], document["runs"])
    return Checkpoint(
        document["round"],
        models,
        memory,
        document["settled"],
        document["refunded"],
        document["history"],
        (document["ledger"][0], document["ledger"][1]),
        document["pseudonyms"],
    )


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _synchronise(folder: Path) -> None:
    """Make a rename durable, where the system lets a folder be opened."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
