"""Start a run: in this process (``inline``), or on Flower's own simulation over Ray (``simulation``)."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from clients.client_app import app as client_app
from fl_market.configuration import Configuration
from fl_market.errors import MarketError
from fl_market.reports import ArmResult
from fl_market.runner.environment import set_environment
from fl_market.runner.inline_grid import InlineGrid
from strategies.history import Observer
from strategies.server_app import run_arm

Engine = Callable[[Configuration, Observer | None], ArmResult]


def run_inline(configuration: Configuration, observer: Observer | None = None) -> ArmResult:
    """Run one arm in this process; see :class:`InlineGrid`."""
    grid = InlineGrid(client_app, configuration.run.agents, configuration.to_mapping())
    return run_arm(grid, configuration, observer)


def run_simulation(configuration: Configuration, observer: Observer | None = None) -> ArmResult:
    """Run one arm on Flower's simulation: Ray workers, one core each.

    Raises
    ------
    MarketError
        As ``run_arm``.
    """
    set_environment()
    from flwr.simulation import run_simulation as start

    results: list[ArmResult] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        results.append(run_arm(grid, configuration, observer))

    with _quiet_ray():
        start(
            server_app=server_app,
            client_app=ConfiguredClientApp(configuration),
            num_supernodes=configuration.run.agents,
            backend_config={"client_resources": {"num_cpus": 1}},
        )
    if not results:
        raise MarketError("Flower's simulation ended without a result; --debug shows its log")
    return results[0]


ENGINES: dict[str, Engine] = {"simulation": run_simulation, "inline": run_inline}
"""The engines by name."""


class ConfiguredClientApp(ClientApp):
    """The agents' app with a run configuration: Flower's ``run_simulation`` has no way to pass one.

    Parameters
    ----------
    configuration
        What ``flwr run --run-config`` would have set.
    """

    def __init__(self, configuration: Configuration) -> None:
        super().__init__()
        self._run_config = configuration.to_mapping()

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message as the agents' app does."""
        # Flower refuses a changed run configuration; the state is the very same object
        configured = Context(context.run_id, context.node_id, context.node_config, context.state, self._run_config)
        return client_app(message, configured)


@contextmanager
def _quiet_ray() -> Iterator[None]:
    """Keep Ray from logging to the terminal while it starts and stops."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
