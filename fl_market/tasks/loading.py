"""Load a task by its name, and check it."""

from dataclasses import replace
from functools import lru_cache

from fl_market.errors import MarketError
from fl_market.tasks.checks import check_task
from fl_market.tasks.task import Task, TaskOptions, find_task


@lru_cache(maxsize=4)
def load_task(name: str, options: TaskOptions) -> Task:
    """Return a task; one process loads it once.

    Raises
    ------
    MarketError
        If there is no such task, its function raises, its data cannot be read, or its parts do not
        fit each other and the model.
    """
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
    check_task(task)
    return task
