"""Check the data of the agents of a run on this machine, before it starts."""

from clients.agent_data import load_agent_data
from fl_market.configuration import Configuration
from fl_market.errors import MarketError
from fl_market.naming import agent_name


def check_agents(configuration: Configuration) -> None:
    """Raise unless the task can be loaded and every agent has data to train on.

    Parameters
    ----------
    configuration
        Options of a run whose agents all are on this machine.

    Raises
    ------
    MarketError
        With one sentence that names the agent, the file or the option.
    """
    configuration.load_task()
    for index in range(configuration.run.agents):
        name = agent_name(index)
        try:
            data = load_agent_data(configuration.of_agent(index), index)
        except MarketError as error:
            raise MarketError(f"agent {name}: {error}") from error
        if not len(data.training[0]):
            raise MarketError(f"agent {name} {_why_nothing_to_train_on(configuration, index)}")


def _why_nothing_to_train_on(configuration: Configuration, index: int) -> str:
    labels = configuration.of_agent(index).agent.labels
    if labels:
        return f"has no training samples of its classes {labels}; change labels or partition"
    return "has no training samples; raise train-samples or scarce-share, or lower agents"
