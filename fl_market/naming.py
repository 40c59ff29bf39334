"""Names of agents, and the pseudonyms under which agents see each other."""

import re
import secrets

from fl_market.errors import MarketError


def agent_name(index: int) -> str:
    """Return the name of the agent with a partition index: A to Z, then AA, AB and so on.

    Examples
    --------
    >>> [agent_name(index) for index in (0, 1, 25, 26)]
    ['A', 'B', 'Z', 'AA']
    """
    name = ""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        name = chr(ord("A") + letter) + name
    return name


def check_agent_name(name: str) -> None:
    """Raise unless a text is valid as an agent's name; ids of deals contain it.

    Raises
    ------
    MarketError
        If it is not 1 to 60 ASCII letters, digits, ``_``, ``.`` and ``-``, the first no dot. Other
        alphabets have letters that look the same, and a leading dot hides a file.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,59}", name):
        raise MarketError(
            "an agent's name must be 1 to 60 ASCII letters, digits, '_', '.' or '-', and begin with no dot; "
            f"got {name[:60]!r}"
        )


class Pseudonyms:
    """Pseudonyms of the agents for one run; only the broker knows the agents behind them.

    They are drawn from the operating system's randomness, because every agent knows the run's seed.
    No result may depend on them.

    Attributes
    ----------
    known
        Agent -> pseudonym, of the agents that have one.
    """

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def of(self, agent: str) -> str:
        """Return an agent's pseudonym, which stays the same for the whole run."""
        return self.known.setdefault(agent, f"agent-{secrets.token_hex(8)}")
