"""Engines: run in this process (``inline``) or in Flower's simulation over Ray (``simulation``)."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from clients.client_app import app as client_app
from fl_market.configuration import Configuration
from fl_market.errors import MarketError
from fl_market.reports import ArmResult
from fl_market.runner.environment import library_logs, set_environment
from fl_market.runner.inline_grid import InlineGrid
from strategies.history import Observer
from strategies.patience import patient
from strategies.server_app import run_arm

Engine = Callable[[Configuration, Observer | None], ArmResult]


class Starter(Protocol):
    """A function that runs one arm."""

    def __call__(
        self, configuration: Configuration, observer: Observer | None = None, *, verbose: bool = False
    ) -> ArmResult:
        """Run one arm; ``verbose`` shows the logs of Flower and Ray."""


def run_inline(configuration: Configuration, observer: Observer | None = None, *, verbose: bool = False) -> ArmResult:
    """Run one arm in this process; see :class:`InlineGrid`.

    Parameters
    ----------
    configuration
        Options of the run; its ``strategy`` names the arm.
    observer
        Called after each round.
    verbose
        Show Flower's log.

    Raises
    ------
    MarketError
        As ``run_arm``.
    """
    grid = InlineGrid(client_app, configuration.run.agents, configuration.to_mapping())
    with library_logs(verbose):
        return run_arm(grid, configuration, observer)


def run_simulation(
    configuration: Configuration, observer: Observer | None = None, *, verbose: bool = False
) -> ArmResult:
    """Run one arm on Flower's simulation: Ray workers, one core each.

    Parameters
    ----------
    configuration
        Options of the run; its ``strategy`` names the arm.
    observer
        Called after each round.
    verbose
        Show the logs of Flower and Ray, and the output of the agents' processes.

    Raises
    ------
    MarketError
        As ``run_arm``.
    """
    set_environment()
    # deprecated in Flower for ``flwr run``, which needs a project folder and starts a SuperLink;
    # only this module uses it, and its warning is part of Flower's log
    from flwr.simulation import run_simulation as start

    results: list[ArmResult] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        results.append(run_arm(patient(grid, configuration.run), configuration, observer))

    ray: dict[str, Any] = {"log_to_driver": verbose, "logging_level": logging.INFO if verbose else logging.CRITICAL}
    with library_logs(verbose):
        start(
            server_app=server_app,
            client_app=ConfiguredClientApp(configuration),
            num_supernodes=configuration.run.agents,
            backend_config={"client_resources": {"num_cpus": 1}, "init_args": ray},
        )
    if not results:
        raise MarketError("Flower's simulation ended without a result; --verbose shows its log")
    return results[0]


ENGINES: dict[str, Starter] = {"simulation": run_simulation, "inline": run_inline}
"""The engines by name."""


def engine_named(name: str, *, verbose: bool = False) -> Engine:
    """Return an engine that shows the logs of Flower and Ray, or hides them."""
    return partial(ENGINES[name], verbose=verbose)


class ConfiguredClientApp(ClientApp):
    """The agents' app with a run configuration: Flower's ``run_simulation`` has no way to pass one.

    Parameters
    ----------
    configuration
        The options that ``flwr run --run-config`` would have set.
    """

    def __init__(self, configuration: Configuration) -> None:
        super().__init__()
        self._run_config = configuration.to_mapping()

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message as the agents' app does."""
        # Flower refuses a changed run configuration; the state is the very same object
        configured = Context(context.run_id, context.node_id, context.node_config, context.state, self._run_config)
        return client_app(message, configured)
