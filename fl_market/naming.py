"""Names: of agents, and the pseudonyms under which they meet."""

import secrets


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
