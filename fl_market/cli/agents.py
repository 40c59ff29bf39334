"""``fl-market agents``."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fl_market.errors import OptionError

if TYPE_CHECKING:
    from fl_market.cli.arguments import Commands


def add_agents(commands: "Commands") -> None:
    """Add the commands that write the registry of agents."""
    parser = commands.add_parser("agents", help="register the agents' public keys")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    add = actions.add_parser("add", help="register an agent's public key under a name")
    add.add_argument("name", metavar="NAME", help="the agent's name")
    add.add_argument("key", metavar="KEY.pub", help="its public key, in OpenSSH's format or in PEM")
    add.set_defaults(command=_add)
    remove = actions.add_parser("remove", help="revoke an agent's key: it has no seat from the next round on")
    remove.add_argument("name", metavar="NAME", help="the agent's name")
    remove.set_defaults(command=_remove)
    shown = actions.add_parser("list", help="list the names and the fingerprints of their keys")
    shown.set_defaults(command=_list)
    for action in (add, remove, shown):
        add_registry(action)
        action.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)


def add_registry(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the registry."""
    parser.add_argument(
        "--registry", default="", metavar="FILE", help="the registry; by default that of FL_MARKET_AGENTS"
    )


def registry_path(options: argparse.Namespace) -> Path:
    """Return the path of the registry.

    Raises
    ------
    OptionError
        If neither the option nor the environment variable names it.
    """
    from fl_market.run_folder import AGENTS

    path = options.registry or os.environ.get(AGENTS, "")
    if not path:
        raise OptionError(f"--registry must name the registry of agents, or else the environment variable {AGENTS}")
    return Path(path)


def _add(options: argparse.Namespace) -> int:
    from fl_market.errors import MarketError
    from fl_market.registry import Registry

    path, key = registry_path(options), Path(options.key)
    try:
        public_key = key.read_bytes()
    except OSError as error:
        raise MarketError(f"the public key {key} cannot be read: {error.strerror}") from error
    known = Registry.read(path) if path.exists() else Registry()
    registry = known.with_agent(options.name, public_key)
    registry.write(path)
    print(f"{options.name}: {registry.keys[options.name]}")
    return 0


def _remove(options: argparse.Namespace) -> int:
    from fl_market.registry import Registry

    path = registry_path(options)
    Registry.read(path).without(options.name).write(path)
    print(f"{options.name} is no longer registered")
    return 0


def _list(options: argparse.Namespace) -> int:
    from fl_market.registry import Registry

    for name, key in sorted(Registry.read(registry_path(options)).keys.items()):
        print(f"{name}: {key}")
    return 0
