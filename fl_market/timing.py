"""Where a run's time goes: named parts of the code, each without the parts inside it."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter

REST = "the rest"


@dataclass
class Timings:
    """Seconds and calls of each part.

    Attributes
    ----------
    seconds, calls
        By part; the seconds of a part do not contain those of parts inside it.
    """

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: Counter[str] = field(default_factory=Counter)
    _inside: list[float] = field(default_factory=list)


_measured: ContextVar[Timings | None] = ContextVar("timings", default=None)


@contextmanager
def measured() -> Iterator[Timings]:
    """Measure the parts inside the block; what is in none of them is :data:`REST`."""
    timings = Timings()
    token = _measured.set(timings)
    try:
        with timed(REST):
            yield timings
    finally:
        _measured.reset(token)


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Count the time of the block, or of a function that this decorates, for a part.

    Examples
    --------
    >>> with measured() as timings:
    ...     with timed("fitting"):
    ...         pass
    >>> sorted(timings.seconds)
    ['fitting', 'the rest']
    """
    timings = _measured.get()
    if timings is None:
        yield
        return
    timings._inside.append(0.0)
    began = perf_counter()
    try:
        yield
    finally:
        whole, inside = perf_counter() - began, timings._inside.pop()
        timings.seconds[part] += whole - inside
        timings.calls[part] += 1
        if timings._inside:
            timings._inside[-1] += whole
