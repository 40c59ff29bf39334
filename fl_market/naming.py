"""Names: of agents, and the pseudonyms under which they meet."""

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
    """Raise MarketError unless a text can be an agent's name: ids, of deals for instance, are made of names."""
    if not re.fullmatch(r"[\w.-]{1,60}", name):
        raise MarketError(
            f"an agent cannot be named {name[:60]!r}; accepted are up to 60 letters, digits, '_', '.' and '-'"
        )


class Pseudonyms:
    """Names for one run under which agents see each other; only the broker can tell whose they are.

    They come from the operating system's randomness, not from the run's seed, which every agent knows: no result may
    depend on them.

    Attributes
    ----------
    known
        Agent -> pseudonym, of those that have one.
    """

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def of(self, agent: str) -> str:
        """Return an agent's pseudonym, the same for the whole run."""
        return self.known.setdefault(agent, f"agent-{secrets.token_hex(8)}")
