"""Whether this process plays an agent of a simulation, in which one operator plays all parts.

Only there may the run's options set what is an agent's own affair: its limits, its data and its
code. Flower marks a simulated node by ``num-partitions`` in the node's configuration. So does many
a tutorial for real nodes, and then the broker's operator would set them. The mark therefore counts
only inside an engine: ours says so, and Flower's is known by its Ray actors, which a SuperNode does
not have.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_engine: ContextVar[bool] = ContextVar("engine", default=False)


@contextmanager
def simulation() -> Iterator[None]:
    """Mark the block as the inside of a simulation engine; nothing else may use it."""
    token = _engine.set(True)
    try:
        yield
    finally:
        _engine.reset(token)


def is_simulated(node: Mapping[str, Any]) -> bool:
    """Return whether the node with this configuration is one of a simulation.

    Examples
    --------
    >>> is_simulated({"partition-id": 0, "num-partitions": 2})
    False
    >>> with simulation():
    ...     is_simulated({"partition-id": 0, "num-partitions": 2})
    True
    """
    return "num-partitions" in node and (_engine.get() or _in_ray_actor())


def _in_ray_actor() -> bool:
    ray = sys.modules.get("ray")  # its actors have imported it before any app
    return bool(ray is not None and ray.is_initialized() and ray.get_runtime_context().get_actor_id())
