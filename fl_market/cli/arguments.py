"""Arguments: the declared options of a run by group, and value types that commands share."""

import argparse
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fl_market.configuration import GROUPS
from fl_market.options import Option, options_of
from fl_market.plugins import Kind, label, with_absolute_file

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

Item = TypeVar("Item")
_METAVARS = {int: "N", float: "X", str: "TEXT"}


def add_options(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """Add the declared options, group by group; the namespace holds only options that were given.

    Parameters
    ----------
    parser
        Parser of a command that runs a market.
    without
        Keys of options that this command sets itself.
    """
    for name, group in GROUPS.items():
        title, _, _ = (group.__doc__ or name).partition("\n")
        section = parser.add_argument_group(f"{name} options", title)
        for declared in options_of(group):
            if declared.key not in without:
                _add_option(section, declared)


def _add_option(section: "argparse._ArgumentGroup", declared: Option) -> None:
    flags = [f"--{flag}" for flag in declared.flags]
    common: dict[str, Any] = {
        "dest": declared.key.replace("-", "_"),
        "default": argparse.SUPPRESS,
        "help": _help(declared).replace("%", "%%"),
    }
    if declared.type is bool:
        section.add_argument(*flags, action=argparse.BooleanOptionalAction, **common)
    elif declared.choices:
        section.add_argument(*flags, choices=declared.choices, **common)
    else:
        section.add_argument(*flags, type=declared.type, metavar=_metavar(declared), **common)


def _metavar(declared: Option) -> str:
    kind = declared.kind.noun.upper().replace(" ", "-") if declared.kind else ""
    return declared.metavar or kind or _METAVARS[declared.type]


def _help(declared: Option) -> str:
    accepted = f": {brief(declared.kind)}" if declared.kind else ""
    if declared.type is bool:
        default = f" (default: {'yes' if declared.default else 'no'})"
    else:
        default = f" (default: {declared.default})" if declared.default != "" else ""
    return f"{declared.help}{accepted}{default}"


def brief(kind: Kind) -> str:
    """Return the names of the plug-ins of a kind, in one line."""
    return ", ".join(kind.shipped) + (", or your own as FILE.py:NAME" if kind.group else "")


def explained(*kinds: Kind) -> str:
    """Return a list of the plug-ins of some kinds, one in each line."""
    parts = []
    for kind in kinds:
        width = max(map(len, kind.shipped))
        lines = [f"  {name:<{width}}  {text}" for name, text in kind.shipped.items()]
        parts.append("\n".join([f"{kind.noun}s:", *lines]))
    return "\n\n".join(parts)


def given_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the declared options that the user gave, by flat name.

    Files of plug-ins get absolute paths, because a run's other processes may work in other folders.
    """
    names = {declared.key.replace("-", "_") for group in GROUPS.values() for declared in options_of(group)}
    given = {name: value for name, value in vars(options).items() if name in names}
    return {name: with_absolute_file(value) if isinstance(value, str) else value for name, value in given.items()}


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Add ``--debug``."""
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def whole(minimum: int) -> Callable[[str], int]:
    """Return the argument type of whole numbers of at least ``minimum``."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {minimum}; got {text!r}")
        return number

    return parse


def names(text: str) -> list[str]:
    """Return the names in a comma-separated list without repetitions; blanks are ignored."""
    found = [with_absolute_file(part.strip()) for part in _split(text)]
    if not all(found):
        raise argparse.ArgumentTypeError(f"must be names separated by commas; got {text!r}")
    return _each_once(found, [label(name) for name in found])


def seeds(text: str) -> list[int]:
    """Return the seeds in a comma-separated list without repetitions; blanks are ignored."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"must be whole numbers of at least 0 separated by commas; got {text!r}")
    found = [int(part) for part in parts]
    return _each_once(found, found)


def _split(text: str) -> list[str]:
    """Return the parts of a comma-separated list; commas in parentheses do not separate."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _each_once(found: list[Item], shown: list[Any]) -> list[Item]:
    repeated = [name for place, name in enumerate(shown) if name in shown[:place]]
    if repeated:
        raise argparse.ArgumentTypeError(f"must name each once; got {repeated[0]} twice")
    return found


def new_folder(name: str) -> str:
    """Return a folder for the results of a command, under ``runs``."""
    return str(Path("runs") / f"{datetime.now():%Y-%m-%d-%H%M%S}-{name}")
