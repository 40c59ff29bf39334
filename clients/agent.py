"""One agent: its number, its options, its data and its memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from flwr.app import Context

from clients.agent_disk import AgentDisk
from clients.agent_state import AgentState
from fl_market.configuration import Configuration, agent_number
from fl_market.naming import agent_name
from fl_market.simulation import is_simulated

if TYPE_CHECKING:
    from clients.agent_data import AgentData


@dataclass(frozen=True)
class Agent:
    """One agent, for the time of one message.

    Attributes
    ----------
    index
        Its number, from 0.
    options
        The options of the run, with the agent's own affairs from its node configuration.
    state
        Its memory.
    run
        Flower's id of the run.
    simulated
        Whether one operator plays all parties.
    """

    index: int
    options: Configuration
    state: AgentState
    run: int
    simulated: bool

    @classmethod
    def at(cls, context: Context) -> Self:
        """Return the agent at a node.

        Raises
        ------
        MarketError
            If the node configuration has no number, or an option is unknown or invalid.
        """
        options = Configuration.of_node(context.run_config, context.node_config)
        index, simulated = agent_number(context.node_config), is_simulated(context.node_config)
        return cls(index, options, AgentState(context), context.run_id, simulated)

    @property
    def name(self) -> str:
        """The agent's name, for instance A."""
        return agent_name(self.index)

    @property
    def data(self) -> "AgentData":
        """The agent's part of the task.

        Raises
        ------
        MarketError
            If the data cannot be read or do not fit.
        """
        from clients.agent_data import load_agent_data  # it needs PyTorch, and most messages do not

        return load_agent_data(self.options, self.index)

    @property
    def batch_size(self) -> int:
        """Samples in a batch of local training."""
        return self.options.training.batch_size or self.data.task.batch_size

    @property
    def disk(self) -> AgentDisk | None:
        """The agent's folder on its own disk, if it has one.

        Raises
        ------
        MarketError
            If the folder cannot be created.
        """
        folder = self.options.agent.agent_dir
        return AgentDisk(Path(folder) / self.name) if folder else None

    @property
    def spent(self) -> int:
        """Micro-credits spent so far; the disk outlives the node and knows earlier runs as well."""
        disk = self.disk
        return self.state.spent if disk is None else disk.spent()
