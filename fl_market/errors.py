"""The one exception that is meant for people: its message is a clear sentence and no traceback is needed."""


class MarketError(Exception):
    """Something that the user, or an agent, can put right; the message says what was wrong and what is accepted."""
