"""Where the broker's trials run: here one after the other, in processes, or in a Ray cluster.

What is found for a buyer depends on nothing that is found for another, and each has random streams
of its own. Results are therefore the same to the last bit, wherever they are computed.
"""

import importlib.util
import logging
import multiprocessing
import os
import pickle
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from fl_market.errors import OptionError

Work = Callable[[Any], Any]
Executor = Callable[[Work, Sequence[Any]], Iterable[Any]]
"""(function, items) -> its results, in the order of the items, as soon as they are there."""

_PROCESSES = re.compile(r"processes(?:\((\d+)\))?")
_RAY = re.compile(r"ray(?:\(([^\s()]+)\))?")
RETRIES = 3
"""How often Ray repeats what a worker that died had not finished."""
_logger = logging.getLogger("fl_market")
_inherited: list[Work] = []
"""In a process: what it computes. It comes with the fork, so that nothing has to be sent."""


def serial(function: Work, items: Sequence[Any]) -> Iterator[Any]:
    """Compute one after the other in this process."""
    return map(function, items)


def processes(number: int) -> Executor:
    """Return an executor with some processes, which are forked for each round.

    They share the models with this process, and send back what they find. What a process that died
    had not finished is computed here.
    """

    def compute(function: Work, items: Sequence[Any]) -> Iterator[Any]:
        workers = min(number, len(items))
        if workers < 2:
            yield from serial(function, items)
            return
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(workers, fork, initializer=_inherited.append, initargs=(function,)) as pool:
            for item, future in [(item, pool.submit(_computed, item)) for item in items]:
                try:
                    found = pickle.loads(future.result())  # noqa: S301 - from a process of our own
                except BrokenProcessPool:
                    _logger.warning("a process of the broker died; its trials are repeated in the broker")
                    found = function(item)
                yield found

    return compute


def ray_cluster(address: str = "") -> Executor:
    """Return an executor with the workers of a Ray cluster, which must be able to import this code.

    The function, with all models or the names of their files, goes to the object store once. Ray
    repeats on another worker what one that died had not finished.

    Parameters
    ----------
    address
        Of a running cluster, such as ``127.0.0.1:6379``; by default the cluster that this process
        is connected to, as in Flower's simulation, or else a new one on this machine.
    """

    def compute(function: Work, items: Sequence[Any]) -> Iterator[Any]:
        import ray
        import torch

        if not ray.is_initialized():
            ray.init(address or None, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
        work, threads = ray.put(function), torch.get_num_threads()
        # without a claim on processors: Flower's simulation claims them all for its agents
        submit = ray.remote(num_cpus=0, max_retries=RETRIES, scheduling_strategy="SPREAD")(_computed_by_worker).remote
        processors = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
        at_once, running = max(1, int(processors)), deque[Any]()
        for item in items:
            running.append(submit(work, item, threads))
            if len(running) == at_once:
                yield pickle.loads(ray.get(running.popleft()))  # noqa: S301 - from a worker of our own
        while running:
            yield pickle.loads(ray.get(running.popleft()))  # noqa: S301 - from a worker of our own

    return compute


def _computed_by_worker(function: Work, item: Any, threads: int) -> bytes:
    """Compute in a worker of Ray, with the threads of the broker: sums depend on their number."""
    import torch

    torch.set_num_threads(threads)
    return pickle.dumps(function(item))


def _computed(item: Any) -> bytes:
    """Compute in a process; plain bytes, as shared tensors would each take a file descriptor."""
    return pickle.dumps(_inherited[0](item))


def parse_executor(text: str) -> Executor:
    """Return the executor that a text names.

    Parameters
    ----------
    text
        ``serial``, ``processes``, ``processes(NUMBER)``, ``ray`` or ``ray(ADDRESS)``.

    Raises
    ------
    OptionError
        If it names none, this platform cannot fork processes, or Ray is not installed.
    """
    if text == "serial":
        return serial
    if (cluster := _RAY.fullmatch(text)) is not None:
        if importlib.util.find_spec("ray") is None:
            raise OptionError(f"executor {text!r} needs Ray, which flwr[simulation] installs")
        return ray_cluster(cluster[1] or "")
    found = _PROCESSES.fullmatch(text)
    if found is None or found[1] == "0":
        raise OptionError(f"executor must be serial, processes, processes(NUMBER), ray or ray(ADDRESS); got {text!r}")
    if "fork" not in multiprocessing.get_all_start_methods():
        raise OptionError(f"executor must be serial on this platform, which cannot fork processes; got {text!r}")
    return processes(int(found[1]) if found[1] else len(os.sched_getaffinity(0)))


def check_executor(text: str) -> None:
    """Raise OptionError unless a text names an executor."""
    parse_executor(text)
