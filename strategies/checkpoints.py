"""Checkpoints of a market: one folder for each of the last rounds, written atomically.

Models lie beside them, in files under their digests (``fl_market/model_files.py``): each is written
once, however many checkpoints it is a part of.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fl_market.errors import MarketError
from fl_market.files import create_folder, synchronise, write_whole
from fl_market.gains import Counted, ErrorBudget, Profile
from fl_market.market.outcome import Delivery, Outcome
from fl_market.market.state import MarketState
from fl_market.model_files import ModelFile, ModelFiles
from fl_market.parameters import StateDict
from fl_market.protocol import Receipt

STATE, TENSORS, MODELS = "state.json", "tensors.safetensors", "models"
FORMAT = 11


@dataclass(frozen=True)
class Checkpoint:
    """The market after a round that is decided but not yet booked.

    Attributes
    ----------
    outcome
        The decision on the round's deals, and the market's state. After a crash the decision is
        booked again; booking is idempotent.
    history
        The agents' test metrics so far, as :meth:`History.as_json` returns them.
    ledger
        Number and hash of the journal's last entry.
    """

    outcome: Outcome
    history: Mapping[str, Any]
    ledger: tuple[int, str]

    @property
    def round(self) -> int:
        """Number of the round."""
        return self.outcome.state.round


class Checkpoints:
    """The checkpoints of one run.

    Parameters
    ----------
    folder
        Their folder.
    kept
        Number of checkpoints to keep.

    Attributes
    ----------
    models
        The files of the market's models.
    """

    def __init__(self, folder: Path, kept: int = 2) -> None:
        self._folder, self._kept = folder, kept
        self.models = ModelFiles(folder / MODELS)

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then remove the oldest ones.

        Raises
        ------
        MarketError
            If it cannot be written; earlier ones are kept.
        """
        name = f"round-{checkpoint.round:06d}"
        unfinished, finished = self._folder / f"{name}.unfinished", self._folder / name
        replaced = self._folder / f"{name}.replaced"
        models = _kept_models(checkpoint, self.models)
        document = {**_document(checkpoint), "models": [[*key, model.sha256] for key, model in models.items()]}
        try:
            self.models.synchronise(models.values())
            shutil.rmtree(unfinished, ignore_errors=True)
            create_folder(unfinished)
            write_whole(unfinished / TENSORS, save(_tensors(checkpoint.outcome.state)))
            write_whole(unfinished / STATE, json.dumps(document, indent=1).encode())
            if finished.exists():  # a resumed run replaces it; it stays valid until its successor exists
                shutil.rmtree(replaced, ignore_errors=True)
                finished.rename(replaced)
            unfinished.rename(finished)
            synchronise(self._folder)
            shutil.rmtree(replaced, ignore_errors=True)
        except OSError as error:
            raise MarketError(f"the checkpoint {finished} cannot be written: {error.strerror or error}") from error
        for old in self._finished()[: -self._kept]:
            shutil.rmtree(old, ignore_errors=True)
        self._remove_models()

    def _remove_models(self) -> None:
        """Remove the models that no checkpoint has; all stay where one cannot be read."""
        try:
            documents = [json.loads((kept / STATE).read_text(encoding="utf-8")) for kept in self._finished()]
            self.models.remove_others({entry[-1] for document in documents for entry in document["models"]})
        except (OSError, ValueError, KeyError):
            return

    def last(self) -> Checkpoint | None:
        """Return the last complete checkpoint, or None.

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
            if document["format"] != FORMAT:
                raise ValueError(f"its format must be {FORMAT}; got {document['format']}")
            tensors = load((finished[-1] / TENSORS).read_bytes())
            named = {name: self.models.read(name) for name in {entry[-1] for entry in document["models"]}}
            models = {(kind, agent, place): named[name] for kind, agent, place, name in document["models"]}
            return _checkpoint(document, models, tensors)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise MarketError(f"the checkpoint {finished[-1]} cannot be read: {error}") from error

    def _finished(self) -> list[Path]:
        whole = (path for path in self._folder.glob("round-*") if path.suffix != ".unfinished")
        return sorted(whole, key=lambda path: (path.stem, path.suffix != ".replaced"))


def _kept_models(checkpoint: Checkpoint, files: ModelFiles) -> dict[tuple[str, str, int], ModelFile]:
    """Return all models in files, by kind, agent and place among those of the agent."""
    state, found = checkpoint.outcome.state, dict[tuple[str, str, int], StateDict]()
    given = {
        agent: delivery.model
        for agent, delivery in checkpoint.outcome.deliveries.items()
        if delivery.model is not None and delivery.model is not state.models[agent]
    }
    for kind, some in (("model", state.models), ("given", given), ("best", state.best)):
        found |= {(kind, agent, 0): model for agent, model in some.items()}
    for kind, several in (("delivered", state.delivered), ("sold", state.sold)):
        found |= {(kind, agent, place): one for agent, some in several.items() for place, one in enumerate(some)}
    return {key: files.keep(model) for key, model in found.items()}


def _tensors(state: MarketState) -> dict[str, Tensor]:
    """Return all tensors that are no models, named by kind, agent and the tensor's own name."""
    named = dict[str, Tensor]()
    for (first, second), permutation in state.permutations.items():
        named |= {
            f"permutation\n{first}\n{second}\n{group}": torch.tensor(order) for group, order in permutation.items()
        }
    for agent, profile in state.profiles.items():
        if profile.validation is not None:
            named |= {f"validation\n{agent}\n{place}": part for place, part in enumerate(profile.validation)}
    # safetensors supports neither shared nor strided memory
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in named.items()}


def _document(checkpoint: Checkpoint) -> dict[str, Any]:
    state = checkpoint.outcome.state
    return {
        "format": FORMAT,
        "round": state.round,
        "profiles": {
            agent: {"labels": profile.labels, "class_weights": profile.class_weights}
            for agent, profile in state.profiles.items()
        },
        "settled": list(checkpoint.outcome.settled),
        "refunded": list(checkpoint.outcome.refunded),
        "history": checkpoint.history,
        "ledger": checkpoint.ledger,
        "pseudonyms": dict(state.pseudonyms),
        "receipts": {agent: [asdict(receipt) for receipt in some] for agent, some in state.receipts.items()},
        "deliveries": {agent: delivery.digest for agent, delivery in checkpoint.outcome.deliveries.items()},
        "runs": list(state.runs),
        "fruitless": [[*pair, *known] for pair, known in state.fruitless.items()],
        "budget": asdict(state.budget),
    }


def _checkpoint(
    document: Mapping[str, Any], models: Mapping[tuple[str, str, int], StateDict], tensors: Mapping[str, Tensor]
) -> Checkpoint:
    permutations: dict[tuple[str, str], dict[str, Any]] = {}
    validation: dict[str, dict[int, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, *names = key.split("\n")
        if kind == "permutation":
            permutations.setdefault((names[0], names[1]), {})[names[2]] = tensor.numpy()
        else:
            validation.setdefault(names[0], {})[int(names[1])] = tensor

    def one_each(kind: str) -> dict[str, StateDict]:
        return {agent: model for (known, agent, _), model in models.items() if known == kind}

    def several_each(kind: str) -> dict[str, list[StateDict]]:
        found: dict[str, list[StateDict]] = {}
        for known, agent, place in sorted(models):
            if known == kind:
                found.setdefault(agent, []).append(models[known, agent, place])
        return found

    records, given = one_each("model"), one_each("given")
    state = MarketState(
        round=document["round"],
        models=records,
        profiles={agent: _profile(texts, validation.get(agent)) for agent, texts in document["profiles"].items()},
        best=one_each("best"),
        budget=_budget(**document["budget"]),
        delivered=several_each("delivered"),
        sold=several_each("sold"),
        permutations=permutations,
        fruitless={(buyer, seller): (failures, last) for buyer, seller, failures, last in document["fruitless"]},
        receipts={agent: [Receipt(**receipt) for receipt in some] for agent, some in document["receipts"].items()},
        pseudonyms=document["pseudonyms"],
        runs=document["runs"],
    )
    deliveries = {
        # without a key: a buyer of a settled deal gets the model itself
        agent: Delivery(
            given.get(agent, records[agent]) if sha else None, sha, receipts=tuple(state.receipts.get(agent, ()))
        )
        for agent, sha in document["deliveries"].items()
    }
    outcome = Outcome(tuple(document["settled"]), tuple(document["refunded"]), state, deliveries=deliveries)
    return Checkpoint(outcome, document["history"], (document["ledger"][0], document["ledger"][1]))


def _profile(texts: Mapping[str, Any], validation: Mapping[int, Tensor] | None) -> Profile:
    data = None if validation is None else (validation[0], validation[1])
    return Profile(tuple(texts["labels"]), tuple(texts["class_weights"]), data)


def _budget(foreseen: dict[str, int], others: dict[str, int], **numbers: float) -> ErrorBudget:
    return ErrorBudget(foreseen=Counted(**foreseen), others=Counted(**others), **numbers)
