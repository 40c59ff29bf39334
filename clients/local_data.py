"""An agent's own training data, wherever its operator keeps it."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
        A folder that ``torchvision.datasets.ImageFolder`` reads, its classes in the order of their names; an ``.npz``
        file with the arrays ``inputs`` and ``targets``; or ``FILE.py:FUNCTION``, a function of the task that returns
        both. Inputs of unsigned bytes are images, shape (samples, channels, height, width), and are normalised as the
        task's own are; other inputs are taken as they are.
    task
        What is trained.

    Raises
    ------
    MarketError
        If the data cannot be read, or does not fit the task.
    """
    try:
        inputs, targets = _read(where, task)
        if inputs.dtype is torch.uint8 and task.prepare is not None:
            inputs = task.prepare(inputs)
    except MarketError:
        raise
    except Exception as error:  # an operator's file may hold or raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MarketError(f"local-data cannot be read from {where}: {reason}; accepted is {ACCEPTED}") from error
    own, like = tuple(inputs.shape[1:]), tuple(task.test[0].shape[1:])
    if own != like or inputs.dtype is not task.test[0].dtype or len(inputs) != len(targets) or not len(inputs):
        raise MarketError(
            f"local-data of {where} has {len(inputs)} inputs of shape {own} and {inputs.dtype} for {len(targets)} "
            f"targets; {task.name} takes {task.test[0].dtype} of shape {like}, with a target for each"
        )
    if not bool(torch.isfinite(inputs).all()):
        raise MarketError(f"local-data of {where} contains NaN or infinite values")
    if targets.dim() != 1 or not 0 <= int(targets.min()) <= int(targets.max()) < task.classes:
        raise MarketError(f"local-data of {where} has targets that are not whole numbers from 0 to {task.classes - 1}")
    return inputs, targets


def _read(where: str, task: Task) -> tuple[Tensor, Tensor]:
    file, colon, function = where.rpartition(":")
    if colon and file.endswith(".py"):
        inputs, targets = runpy.run_path(file)[function](task)
        return torch.as_tensor(inputs), torch.as_tensor(targets).long()
    if where.endswith(".npz"):
        with np.load(where, allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["inputs"]), torch.from_numpy(arrays["targets"]).long()
    if Path(where).is_dir():
        return _image_folder(where, task)
    raise MarketError(f"local-data cannot be {where!r}; accepted is {ACCEPTED}")


def _image_folder(where: str, task: Task) -> tuple[Tensor, Tensor]:
    shape = tuple(task.test[0].shape[1:])
    if task.prepare is None or len(shape) != 3:
        raise MarketError(f"{task.name} takes no images; accepted as local-data are .npz files and functions")
    vision = import_torchvision()
    mode = "L" if shape[0] == 1 else "RGB"
    resize = vision.transforms.Resize(shape[1:])

    def as_bytes(image: Any) -> Tensor:
        pixels = np.array(resize(image.convert(mode))).reshape(*shape[1:], shape[0])
        return torch.from_numpy(pixels).permute(2, 0, 1)

    folder = vision.datasets.ImageFolder(where, transform=as_bytes)
    images, targets = zip(*folder, strict=True)
    return torch.stack(images), torch.tensor(targets)
