"""An agent's own training data, as its operator keeps them."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clients.faults import one_line
from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.tasks import Task
from fl_market.tasks.torchvision_import import import_torchvision

ACCEPTED = "a folder of images by class, an .npz file with inputs and targets, or FILE.py:FUNCTION"


def read_local_data(where: str, task: Task) -> Batch:
    """Return an agent's own inputs and targets, as the task's model takes them.

    Parameters
    ----------
    where
        A folder that ``torchvision.datasets.ImageFolder`` reads, its classes in the order of their
        names; an ``.npz`` file with the arrays ``inputs`` and ``targets``; or ``FILE.py:FUNCTION``,
        a function of the task that returns both. Inputs of unsigned bytes are images, shape
        (samples, channels, height, width), and are normalised like the task's own; other inputs are
        taken as they are.
    task
        The task that the agent trains on.

    Raises
    ------
    MarketError
        If the data cannot be read, or do not fit the task; the message names the file.
    """
    try:
        inputs, targets = _read(where, task)
        if inputs.dtype is torch.uint8 and task.prepare is not None:
            inputs = task.prepare(inputs)
    except MarketError:
        raise
    except Exception as error:  # an operator's file may hold or raise anything
        raise MarketError(f"local-data {where} cannot be read: {one_line(error)}; it must be {ACCEPTED}") from error
    _check_inputs(where, inputs, task)
    if len(inputs) != len(targets) or not len(inputs):
        raise MarketError(
            f"local-data {where} must have a target for each input; got {len(inputs)} inputs and {len(targets)} targets"
        )
    whole = targets.long()
    in_range = 0 <= int(whole.min()) <= int(whole.max()) < task.classes
    if targets.dim() != 1 or not in_range or bool((whole != targets).any()):
        raise MarketError(f"the targets of local-data {where} must be whole numbers from 0 to {task.classes - 1}")
    return inputs, whole


def _check_inputs(where: str, inputs: Tensor, task: Task) -> None:
    own, like = tuple(inputs.shape[1:]), task.test[0]
    if own != tuple(like.shape[1:]) or inputs.dtype is not like.dtype:
        raise MarketError(
            f"the inputs of local-data {where} must have shape {tuple(like.shape[1:])} and dtype {like.dtype}, which "
            f"the task {task.name} takes; got shape {own} and dtype {inputs.dtype}"
        )
    if not bool(torch.isfinite(inputs).all()):
        raise MarketError(f"the inputs of local-data {where} must be finite; got NaN or infinite values")


def _read(where: str, task: Task) -> tuple[Tensor, Tensor]:
    file, colon, function = where.rpartition(":")
    if colon and file.endswith(".py"):
        names = runpy.run_path(file)
        if function not in names:
            raise MarketError(f"local-data {where} cannot be read: {file} has no function {function!r}")
        inputs, targets = names[function](task)
        return torch.as_tensor(inputs), torch.as_tensor(targets)
    if where.endswith(".npz"):
        return _arrays(where)
    if Path(where).is_dir():
        return _image_folder(where, task)
    raise MarketError(f"local-data must be {ACCEPTED}; got {where!r}")


def _arrays(where: str) -> tuple[Tensor, Tensor]:
    with np.load(where, allow_pickle=False) as arrays:
        for name in ("inputs", "targets"):
            if name not in arrays:
                raise MarketError(f"local-data {where} lacks the array {name!r}")
        return torch.from_numpy(arrays["inputs"]), torch.from_numpy(arrays["targets"])


def _image_folder(where: str, task: Task) -> tuple[Tensor, Tensor]:
    shape = tuple(task.test[0].shape[1:])
    if task.prepare is None or len(shape) != 3:
        raise MarketError(
            f"local-data of the task {task.name} must be an .npz file or FILE.py:FUNCTION; got images in {where}"
        )
    vision = import_torchvision()
    mode = "L" if shape[0] == 1 else "RGB"
    resize = vision.transforms.Resize(shape[1:])

    def load(path: str) -> Any:
        try:
            return vision.datasets.folder.default_loader(path)
        except Exception as error:  # a damaged image may raise anything
            raise MarketError(f"the image {path} of local-data cannot be read: {one_line(error)}") from error

    def as_bytes(image: Any) -> Tensor:
        pixels = np.array(resize(image.convert(mode))).reshape(*shape[1:], shape[0])
        return torch.from_numpy(pixels).permute(2, 0, 1)

    folder = vision.datasets.ImageFolder(where, transform=as_bytes, loader=load)
    images, targets = zip(*folder, strict=True)
    return torch.stack(images), torch.tensor(targets)
