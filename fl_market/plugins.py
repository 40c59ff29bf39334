"""Plug-ins: one parser for every text that names a part which users may replace by their own code.

A text is ``NAME``, ``NAME(number, …)``, ``FILE.py:NAME``, ``FILE.py:NAME(number, …)``, or the name
of an entry point with or without numbers. A plug-in is imported only when it is looked up, so that
the command line can list the names without importing torch.
"""

import inspect
import math
import re
import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from fl_market.errors import MarketError, OptionError

_CALL = re.compile(r"\s*(?P<name>\S.*?)\s*(?:\((?P<numbers>[^()]*)\)\s*)?", re.DOTALL)


@dataclass(frozen=True)
class Kind:
    """One kind of plug-in.

    Attributes
    ----------
    noun
        Its name in messages.
    what
        Description of a valid plug-in, in messages.
    registry
        ``module:NAME`` of the dict from names to the plug-ins that the package ships.
    shipped
        Text as users write it -> its description. A text with parentheses needs its numbers.
    group
        Group of its entry points; empty if users cannot add their own.
    requires
        Attributes that a plug-in must have.
    leading
        Number of arguments before the numbers, for a plug-in that takes both in one call. With 0, a
        call with the numbers makes the plug-in.
    """

    noun: str
    what: str
    registry: str
    shipped: Mapping[str, str] = field(hash=False)
    group: str = ""
    requires: tuple[str, ...] = ("__call__",)
    leading: int = 0

    @property
    def accepted(self) -> str:
        """All valid texts, for messages."""
        own = f", or your own as FILE.py:NAME or as an entry point of {self.group}" if self.group else ""
        return ", ".join(self.shipped) + own

    @property
    def lines(self) -> dict[str, str]:
        """Text as users write it -> its description, installed entry points included."""
        installed = entry_points(group=self.group) if self.group else ()
        return dict(self.shipped) | {point.name: f"from {point.value}" for point in installed}

    def check(self, given: Any) -> None:
        """Raise OptionError unless ``given`` is a plug-in of this kind, or a text that names one.

        The check does not import a shipped plug-in.
        """
        if not isinstance(given, str):
            self.require(given, repr(given))
        elif given not in self.shipped or "(" in given:
            find(self, given)

    def require(self, found: Any, text: str) -> None:
        """Raise OptionError unless ``found`` is a valid plug-in of this kind."""
        needs_numbers = self.leading and not _takes(found, [0.0] * self.leading, {})
        if isinstance(found, type) or needs_numbers or not all(hasattr(found, name) for name in self.requires):
            raise OptionError(f"the {self.noun} {text} is not {self.what}; known are {self.accepted}")


@dataclass(frozen=True)
class Call:
    """The parts of a text; ``numbers`` is None without parentheses."""

    name: str
    numbers: tuple[float, ...] | None
    named: Mapping[str, float] = field(default_factory=dict)


def parse_call(text: str) -> Call:
    """Return the parts of ``NAME`` or ``NAME(number, …, word=number, …)``.

    Raises
    ------
    OptionError
        If it is neither.

    Examples
    --------
    >>> parse_call("split(0.25)")
    Call(name='split', numbers=(0.25,), named={})
    >>> parse_call("points(100, until=0.9)")
    Call(name='points', numbers=(100.0,), named={'until': 0.9})
    >>> parse_call("own.py:rule").numbers is None
    True
    """
    found = _CALL.fullmatch(text)
    if found is None:
        raise OptionError(f"{text!r} must have the form NAME or NAME(number, …)")
    if found["numbers"] is None:
        return Call(found["name"], None)
    try:
        parts = found["numbers"].split(",") if found["numbers"].strip() else []
        words = [part.partition("=") for part in parts if "=" in part]
        named = {word.strip(): float(number) for word, _, number in words}
        if len(named) < len(words) or any("=" in part for part in parts[: len(parts) - len(words)]):
            raise ValueError  # a word twice, or a number after it
        return Call(found["name"], tuple(float(part) for part in parts if "=" not in part), named)
    except ValueError:
        raise OptionError(f"{text!r} must have numbers separated by commas in its parentheses") from None


def find(kind: Kind, text: str, *, fresh: bool = False) -> Any:
    """Return the plug-in that a text names.

    Parameters
    ----------
    kind
        The kind of plug-in.
    text
        As users write it.
    fresh
        Run the file of the plug-in anew, so that nothing in it remembers an earlier use.

    Raises
    ------
    OptionError
        If the plug-in is unknown or of another kind, or its numbers are invalid.
    """
    try:
        call = parse_call(text)
    except OptionError as error:
        raise OptionError(f"the {kind.noun} {error}; known are {kind.accepted}") from None
    if call.numbers is None and any(shipped.startswith(f"{call.name}(") for shipped in kind.shipped):
        raise OptionError(f"the {kind.noun} {text!r} lacks its numbers; known are {kind.accepted}")
    found = _look_up(kind, call.name, text, fresh)
    if call.numbers is not None:
        found = _with_numbers(kind, found, text, call)
    kind.require(found, text)
    return found


def label(text: str) -> str:
    """Return the short name of a plug-in, without its file, for tables and file names.

    >>> label("examples/own_arm.py:greedy"), label("market")
    ('greedy', 'market')
    """
    return text.rpartition(":")[2] if is_file(text) else text


def is_file(text: str) -> bool:
    """Return whether a text names something in a file: ``FILE.py:NAME``."""
    return text.rpartition(":")[0].endswith(".py")


def with_absolute_file(text: str) -> str:
    """Return a text with the path of its file made absolute, for processes that run elsewhere."""
    file, _, name = text.rpartition(":")
    return f"{Path(file.strip()).expanduser().absolute()}:{name}" if is_file(text) else text


def load_file(file: str, name: str, *, fresh: bool = False) -> Any:
    """Return the object that a Python file defines under a name.

    Parameters
    ----------
    file, name
        Path of the file, and the name in it.
    fresh
        Run the file anew; otherwise each version of it is run once.

    Raises
    ------
    OptionError
        If the file cannot be run, or does not define the name.
    """
    try:
        defined = runpy.run_path(file) if fresh else _run_file(file, Path(file).stat().st_mtime_ns)
    except Exception as error:  # a user's file may raise anything
        raise OptionError(f"{file} cannot be run: {type(error).__name__}: {error}") from error
    if name not in defined:
        raise OptionError(f"{file} does not define {name!r}")
    return defined[name]


@lru_cache(maxsize=32)
def _run_file(path: str, modified: int) -> dict[str, Any]:
    """Run a file once for each of its versions, so that repeated calls return the same objects."""
    return runpy.run_path(path)


def _look_up(kind: Kind, name: str, text: str, fresh: bool) -> Any:
    names = {shipped.partition("(")[0] for shipped in kind.shipped}
    if name.lower() in names:
        return registry_of(kind)[name.lower()]
    if kind.group and is_file(name):
        file, _, attribute = name.rpartition(":")
        return load_file(file, attribute, fresh=fresh)
    points = list(entry_points(group=kind.group, name=name)) if kind.group else []
    if not points:
        raise OptionError(f"unknown {kind.noun} {text!r}; known are {kind.accepted}")
    try:
        return points[0].load()
    except Exception as error:  # an installed package may raise anything
        raise OptionError(f"the {kind.noun} {text!r} cannot be loaded: {type(error).__name__}: {error}") from error


def registry_of(kind: Kind) -> Mapping[str, Any]:
    """Import and return the dict from names to the plug-ins of a kind that the package ships."""
    module, _, attribute = kind.registry.partition(":")
    registry: Mapping[str, Any] = getattr(import_module(module), attribute)
    return registry


def _with_numbers(kind: Kind, found: Any, text: str, call: Call) -> Any:
    """Return the plug-in bound to its numbers.

    Without leading arguments, it is called with the numbers at once.
    """
    numbers = call.numbers or ()
    if not callable(found) or not _takes(found, [*[0.0] * kind.leading, *numbers], call.named):
        raise OptionError(f"the {kind.noun} {text!r} has invalid numbers; known are {kind.accepted}")
    parameters = inspect.signature(found).parameters
    placed = [one for one in parameters.values() if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    in_order = placed[kind.leading :]
    try:
        fitting = [
            _whole_where_needed(text, in_order[min(place, len(in_order) - 1)], number)
            for place, number in enumerate(numbers)
        ]
        named = {word: _whole_where_needed(text, parameters[word], number) for word, number in call.named.items()}
    except OptionError as error:
        raise OptionError(f"the {kind.noun} {error}; known are {kind.accepted}") from None
    if kind.leading:
        return lambda *leading: found(*leading, *fitting, **named)
    try:
        return found(*fitting, **named)
    except MarketError as error:
        raise OptionError(f"the {kind.noun} {text!r} is invalid: {error}") from error


def _takes(found: Callable[..., Any], arguments: Sequence[float], named: Mapping[str, float]) -> bool:
    """Return whether a function takes these arguments."""
    try:
        inspect.signature(found).bind(*arguments, **named)
    except (TypeError, ValueError):
        return False
    return True


def _whole_where_needed(text: str, parameter: inspect.Parameter, number: float) -> float:
    """Return a number, converted to ``int`` where the parameter is annotated with it."""
    if parameter.annotation not in (int, "int"):
        return number
    if not math.isfinite(number) or number != int(number):
        raise OptionError(f"{text!r} must have a whole number for {parameter.name}; got {number:g}")
    return int(number)
