"""Load a task by its name, and check it."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import torch

from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.tasks.checks import check_task
from fl_market.tasks.task import Party, Task, TaskOptions, find_task


def load_task(name: str, options: TaskOptions) -> Task:
    """Return a task with the samples of ``options.party`` alone; one process loads them once.

    Samples of other parties are dropped if the task's function makes them all the same.

    Raises
    ------
    MarketError
        If there is no such task, its function raises, its data cannot be read, or its parts do not
        fit each other and the model.
    """
    loaded = _loaded(name, replace(options, party=None))
    if options.party not in loaded:
        loaded[options.party] = _load(name, options, loaded)
    return loaded[options.party]


@lru_cache(maxsize=4)
def _loaded(name: str, options: TaskOptions) -> dict[Party, Task]:
    """Return the tasks that this process has loaded with these options, by party."""
    return {}


def _load(name: str, options: TaskOptions, loaded: Mapping[Party, Task]) -> Task:
    if None in loaded:  # this process may hold all samples, and need not read them again
        return loaded[None].only_for(options.party)
    task = _made(name, options).only_for(options.party)
    check_task(task, options.party)
    # a simulation plays many parties in one process, which then keeps one copy of the test set
    known = next((other.test for other in loaded.values() if _equal(other.test, task.test)), task.test)
    return replace(task, test=known)


def _made(name: str, options: TaskOptions) -> Task:
    """Return the task as its function makes it, with a part for each agent."""
    make = find_task(name)
    try:
        task = make(replace(options, name=name))
    except MarketError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise MarketError(f"the task {name} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise MarketError(f"the task {name} must return a fl_market.tasks.Task; got {type(task).__name__}")
    if len(task.agents) != options.agents:
        raise MarketError(f"the task {name} has data for {len(task.agents)} agents; agents is {options.agents}")
    return task


def _equal(one: Batch, other: Batch) -> bool:
    return all(a.dtype is b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))
