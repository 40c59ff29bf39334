"""Errors that are meant for users: one sentence that names what was wrong and what is accepted."""


class MarketError(Exception):
    """Something a user can put right."""


class OptionError(MarketError):
    """An option or an argument that is invalid; the command line exits with 2 on it."""
