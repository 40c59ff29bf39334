"""Errors meant for users: one sentence that names the invalid input and the valid values."""


class MarketError(Exception):
    """An error that a user can correct."""


class OptionError(MarketError):
    """An invalid option or argument; the command line exits with status 2."""
