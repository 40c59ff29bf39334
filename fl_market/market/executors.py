"""Where the broker's trials run: one buyer after the other, or in processes of this machine.

What is found for a buyer depends on nothing that is found for another, and each has random streams
of its own. Results are therefore the same to the last bit, wherever they are computed.
"""

import logging
import multiprocessing
import os
import pickle
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from fl_market.errors import OptionError

Work = Callable[[Any], Any]
Executor = Callable[[Work, Sequence[Any]], list[Any]]
"""(function, items) -> its results, in the order of the items."""

_PROCESSES = re.compile(r"processes(?:\((\d+)\))?")
_logger = logging.getLogger("fl_market")
_inherited: list[Work] = []
"""In a process: what it computes. It comes with the fork, so that nothing has to be sent."""


def serial(function: Work, items: Sequence[Any]) -> list[Any]:
    """Compute one after the other in this process."""
    return [function(item) for item in items]


def processes(number: int) -> Executor:
    """Return an executor with some processes, which are forked for each round.

    They share the models with this process, and send back what they find. What a process that died
    had not finished is computed here.
    """

    def compute(function: Work, items: Sequence[Any]) -> list[Any]:
        workers = min(number, len(items))
        if workers < 2:
            return serial(function, items)
        fork = multiprocessing.get_context("fork")
        found = []
        with ProcessPoolExecutor(workers, fork, initializer=_inherited.append, initargs=(function,)) as pool:
            for item, future in [(item, pool.submit(_computed, item)) for item in items]:
                try:
                    found.append(pickle.loads(future.result()))  # noqa: S301 - from a process of our own
                except BrokenProcessPool:
                    _logger.warning("a process of the broker died; its trials are repeated in the broker")
                    found.append(function(item))
        return found

    return compute


def _computed(item: Any) -> bytes:
    """Compute in a process; plain bytes, as shared tensors would each take a file descriptor."""
    return pickle.dumps(_inherited[0](item))


def parse_executor(text: str) -> Executor:
    """Return the executor that a text names: ``serial``, ``processes`` or ``processes(NUMBER)``.

    Raises
    ------
    OptionError
        If it names none, or this platform cannot fork processes.
    """
    if text == "serial":
        return serial
    found = _PROCESSES.fullmatch(text)
    if found is None or found[1] == "0":
        raise OptionError(f"executor must be serial, processes or processes(NUMBER); got {text!r}")
    if "fork" not in multiprocessing.get_all_start_methods():
        raise OptionError(f"executor must be serial on this platform, which cannot fork processes; got {text!r}")
    return processes(int(found[1]) if found[1] else len(os.sched_getaffinity(0)))


def check_executor(text: str) -> None:
    """Raise OptionError unless a text names an executor."""
    parse_executor(text)
