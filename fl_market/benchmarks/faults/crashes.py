"""Crashes between two lines of the exchange's code, on the broker's side or on an agent's."""

import sys
from collections.abc import Callable
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import clients
import fl_market
import strategies

Tracer = Callable[[FrameType, str, Any], Any]
_MARKET = Path(str(fl_market.__file__)).parent
EXCHANGE = (
    f"{Path(str(strategies.__file__)).parent}/",
    f"{Path(str(clients.__file__)).parent}/",
    f"{_MARKET}/ledger/",
    f"{_MARKET}/market/bargain.py",
    f"{_MARKET}/market/settlement.py",
    f"{_MARKET}/market/state.py",
    f"{_MARKET}/files.py",
    f"{_MARKET}/sealing.py",
)
"""Beginnings of the paths of the code that a crash can hit."""


class CrashError(BaseException):
    """A machine has crashed; no handler catches it, as with a power cut."""


class LineWatch:
    """Calls a function before each line of the exchange; it may raise.

    Parameters
    ----------
    at_line
        The function.
    wanted
        Whether it needs to know the lines of a function that is called at this moment.
    """

    def __init__(self, at_line: Callable[[], None], wanted: Callable[[], bool]) -> None:
        self._at_line, self._wanted = at_line, wanted
        self._known: dict[CodeType, bool] = {}

    def start(self) -> None:
        """Watch the functions that run at this moment, and those that they call.

        It slows Python down, which stops it when the function raises.
        """
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            frame.f_trace = self._trace(frame, "call", None)
            frame = frame.f_back
        sys.settrace(self._trace)

    def stop(self) -> None:
        """Watch no longer."""
        sys.settrace(None)

    def _trace(self, frame: FrameType, kind: str, _: Any) -> Tracer | None:
        code = frame.f_code
        if code not in self._known:
            # modules and classes are made once in a process, wherever they are first imported
            made = not code.co_flags & CO_OPTIMIZED
            self._known[code] = code.co_filename.startswith(EXCHANGE) and not made
        return self._trace_line if self._known[code] and self._wanted() else None

    def _trace_line(self, frame: FrameType, kind: str, _: Any) -> Tracer:
        if kind == "line":
            self._at_line()
        return self._trace_line
