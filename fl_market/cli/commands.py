"""The command line as a whole: its commands and their exit statuses."""

import argparse
import sys
from collections.abc import Callable, Sequence

from fl_market import __version__
from fl_market.cli.agents import add_agents
from fl_market.cli.experiments import add_bench, add_experiments
from fl_market.cli.ledger import add_ledger
from fl_market.cli.listings import add_listings
from fl_market.cli.runs import add_runs
from fl_market.errors import MarketError, OptionError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    try:
        options = make_parser().parse_args(arguments)
    except SystemExit as stop:  # raised by argparse on invalid arguments, and after --help and --version
        return 2 if stop.code else 0
    debug = getattr(options, "debug", False)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except MarketError as error:
        if debug:
            raise
        print(f"fl-market: {error}", file=sys.stderr)
        return 2 if isinstance(error, OptionError) else 1
    except KeyboardInterrupt:
        print("fl-market: interrupted", file=sys.stderr)
        return 1
    except Exception as error:
        if debug:
            raise
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        print(f"fl-market: the run failed: {reason} (--debug shows where)", file=sys.stderr)
        return 1


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="fl-market", description="A market on Flower in which agents buy parts of each other's models."
    )
    parser.add_argument("--version", action="version", version=f"fl-market {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_runs(commands)
    add_experiments(commands)
    add_bench(commands)
    add_ledger(commands)
    add_agents(commands)
    add_listings(commands, make_parser)
    return parser
