"""Checks of a task before a run: the data against the model, and the parts against each other."""

from collections.abc import Iterator

import torch

from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.naming import agent_name
from fl_market.seeds import reproducible
from fl_market.tasks.task import BROKER, Party, Task

FEWEST_BROKER_SAMPLES = 4
"""One half fits α and the other certifies the gain; a spread needs two samples in each."""


def check_task(task: Task, party: Party = None) -> None:
    """Raise unless agents and broker can train, trade and test with a task.

    Its parts must have inputs of one shape and dtype and a class for each; the broker's must have
    every class. The model must accept two inputs and return a score for each class, and the
    criterion a loss for each sample. Agents may have no samples here: they may have training data
    of their own.

    Parameters
    ----------
    task
        The task as its function made it.
    party
        The party whose samples the task holds; None for all. An agent's task has no broker's data.

    Raises
    ------
    MarketError
        With one sentence that names the part and the tensor.
    """
    for part, data in _parts(task):
        _check_part(part, data, task)
    if not len(task.test[0]):
        raise MarketError(f"the test set of {task.name} has no samples")
    if party in (None, BROKER):
        _check_broker(task)
    _check_model(task)


def _check_broker(task: Task) -> None:
    if len(task.broker[0]) < FEWEST_BROKER_SAMPLES:
        raise MarketError(
            f"the broker of {task.name} needs at least {FEWEST_BROKER_SAMPLES} validation samples; got "
            f"{len(task.broker[0])}: raise broker-samples"
        )
    counts = torch.bincount(task.broker[1], minlength=task.classes).tolist()
    if 0 in counts:
        raise MarketError(f"the broker's data in {task.name} has no sample of class {counts.index(0)}")


def _parts(task: Task) -> Iterator[tuple[str, Batch]]:
    yield "the test set", task.test
    yield "the broker's data", task.broker
    for index, data in enumerate(task.agents):
        yield f"agent {agent_name(index)}'s data", data


def _check_part(part: str, data: Batch, task: Task) -> None:
    inputs, targets = data
    like = task.test[0]
    if inputs.shape[1:] != like.shape[1:] or inputs.dtype != like.dtype:
        raise MarketError(
            f"the inputs of {part} in {task.name} have shape {tuple(inputs.shape[1:])} and dtype {inputs.dtype}; "
            f"those of the test set have shape {tuple(like.shape[1:])} and dtype {like.dtype}"
        )
    if targets.shape != inputs.shape[:1] or targets.dtype != torch.int64:
        raise MarketError(
            f"the targets of {part} in {task.name} have shape {tuple(targets.shape)} and dtype {targets.dtype}; "
            f"they must have shape ({len(inputs)},) and dtype torch.int64"
        )
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < task.classes:
        raise MarketError(
            f"the targets of {part} in {task.name} are from {int(targets.min())} to {int(targets.max())}; they must "
            f"be from 0 to {task.classes - 1}, for there are {task.classes} classes"
        )


def _check_model(task: Task) -> None:
    inputs, targets = (part[:2] for part in task.test)
    shape = tuple(inputs.shape)
    with reproducible(0, "task-check"), torch.no_grad():
        try:
            outputs = task.build_model().eval()(inputs)
        except Exception as error:  # a user's model may raise anything
            raise MarketError(
                f"the model of {task.name} does not accept inputs of shape {shape} and dtype {inputs.dtype}: "
                f"{_first_line(error)}"
            ) from error
        if not isinstance(outputs, torch.Tensor) or outputs.shape != (len(inputs), task.classes):
            found = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
            raise MarketError(
                f"the model of {task.name} must return outputs of shape {(len(inputs), task.classes)} for inputs of "
                f"shape {shape}; got {found}"
            )
        try:
            losses = task.criterion(outputs, targets)
        except Exception as error:
            raise MarketError(f"the criterion of {task.name} fails: {_first_line(error)}") from error
        if losses.shape != targets.shape:
            raise MarketError(
                f"the criterion of {task.name} must return a loss for each sample, of shape {tuple(targets.shape)}; "
                f"got {tuple(losses.shape)}: pass reduction='none'"
            )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
