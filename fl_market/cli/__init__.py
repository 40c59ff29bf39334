"""The ``fl-market`` command.

Exit status 0 on success, 2 on bad arguments, 1 on a failed run; an error is one sentence on
standard error. Parsing imports neither torch nor Flower, so that help and lists appear at once.
"""

from fl_market.cli.commands import main

__all__ = ["main"]
