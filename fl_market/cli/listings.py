"""``fl-market arms``, ``fl-market tasks`` and ``fl-market completion``."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from fl_market.catalogue import ARM, TASK
from fl_market.plugins import Kind

if TYPE_CHECKING:
    from fl_market.cli.arguments import Commands

_SHELLS = ("bash", "zsh", "fish", "tcsh")


def add_listings(commands: "Commands", make_parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Add the commands that list arms and tasks, and the one for shell completion."""
    for name, kind in (("arms", ARM), ("tasks", TASK)):
        commands.add_parser(name, help=f"list the {kind.noun}s with a description of each").set_defaults(
            command=_list, kind=kind
        )
    completion = commands.add_parser("completion", help="print a completion script for a shell")
    completion.add_argument("shell", choices=_SHELLS)
    completion.set_defaults(command=_complete, make_parser=make_parser)


def _list(options: argparse.Namespace) -> int:
    kind: Kind = options.kind
    lines = kind.lines
    width = max(map(len, lines))
    for name, text in lines.items():
        print(f"{name:<{width}}  {text}")
    print(f"{'FILE.py:NAME':<{width}}  your own: {kind.what}")
    return 0


def _complete(options: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(options.make_parser(), options.shell))
    return 0
