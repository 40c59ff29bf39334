"""Models in files: a market's memory does not grow with the number of its agents.

Each model is a safetensors file under the SHA-256 of its tensors. It is mapped into memory: a
tensor is there while somebody uses it. Processes and checkpoints share the files.
"""

import os
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fl_market.errors import MarketError
from fl_market.files import create_folder, synchronise, synchronise_file
from fl_market.parameters import StateDict, digest

Keep = Callable[[StateDict], StateDict]
"""Puts a model where it is to stay, and returns it from there."""

SUFFIX = ".safetensors"


def in_memory(state: StateDict) -> StateDict:
    """Keep a model as it is."""
    return state


class ModelFile(Mapping[str, Tensor]):
    """A state dict in a file, whose tensors are read when they are asked for.

    Parameters
    ----------
    path
        The file, named by the SHA-256 of the state dict.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with safe_open(path, "pt") as file:
            self._names = tuple(file.keys())
        _in_use.add(self)

    @property
    def sha256(self) -> str:
        """The digest of the state dict, as :func:`fl_market.parameters.digest` returns it."""
        return self.path.name.removesuffix(SUFFIX)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self.path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __reduce__(self) -> tuple[type["ModelFile"], tuple[Path]]:
        return ModelFile, (self.path,)


_in_use: "weakref.WeakSet[ModelFile]" = weakref.WeakSet()
"""All of this process: their files must stay."""


class ModelFiles:
    """A folder of models.

    Parameters
    ----------
    folder
        It is created with the first model.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written: set[str] = set()
        self._durable: set[str] = set()

    def keep(self, state: StateDict) -> ModelFile:
        """Write a model, unless it has a file; it is durable only after :meth:`synchronise`.

        Raises
        ------
        MarketError
            If it cannot be written.
        """
        if isinstance(state, ModelFile):
            return state
        name = digest(state)
        path = self._path(name)
        if name not in self._written:  # a file of an earlier process may not be whole
            # several processes may write the same model
            unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
            # safetensors supports neither shared nor strided memory
            tensors = {name: _dense(tensor) for name, tensor in state.items()}
            try:
                create_folder(self.folder)
                save_file(tensors, unfinished)
                unfinished.replace(path)
            except (OSError, SafetensorError) as error:
                raise MarketError(f"the model {path} cannot be written: {error}") from error
            self._written.add(name)
        return ModelFile(path)

    def synchronise(self, models: Collection[ModelFile]) -> None:
        """Make some models durable: they are still there after a crash."""
        new = sorted({model.sha256 for model in models} - self._durable)
        for name in new:
            synchronise_file(self._path(name))
        if new:
            synchronise(self.folder)
        self._durable |= set(new)

    def read(self, name: str) -> ModelFile:
        """Return the model with a digest.

        Raises
        ------
        MarketError
            If it is missing, or its content has another digest.
        """
        path = self._path(name)
        try:
            model = ModelFile(path)
            found = digest(dict(model))
        except (OSError, SafetensorError) as error:
            raise MarketError(f"the model {path} cannot be read: {error}") from error
        if found != name:
            raise MarketError(f"the model {path} is damaged: the SHA-256 of its tensors is {found}")
        self._written.add(name)
        self._durable.add(name)
        return model

    def remove_others(self, names: Collection[str]) -> None:
        """Remove all models but those with the given digests, and those in use."""
        needed = {model.sha256 for model in _in_use if model.path.parent == self.folder} | set(names)
        for path in self.folder.glob("*"):
            if path.name.removesuffix(SUFFIX) not in needed:
                path.unlink(missing_ok=True)
        self._written &= needed
        self._durable &= needed

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"


def _dense(tensor: Tensor) -> Tensor:
    """Return a tensor with memory of its own, in order; the tensor itself if it is so already."""
    tensor = tensor.detach().cpu()
    whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.contiguous().clone()
