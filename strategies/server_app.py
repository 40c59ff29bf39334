"""The broker's Flower app: runs one arm and reports it."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from logging import INFO
from pathlib import Path
from time import perf_counter

from flwr.app import ArrayRecord, Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from fl_market.configuration import Configuration
from fl_market.errors import MarketError, OptionError
from fl_market.ledger import Deal, DealState, Ledger
from fl_market.naming import agent_name
from fl_market.plugins import label
from fl_market.reports import AgentResult, ArmResult
from fl_market.reports.table import results_table
from fl_market.run_folder import (
    LEDGER,
    at_work,
    checkpoints_path,
    clear_folder,
    ledger_url,
    read_configuration,
    write_configuration,
    write_results,
)
from strategies.arms import Setting, arm_named
from strategies.checkpoints import Checkpoints
from strategies.history import History, Observer
from strategies.market import ParameterMarket

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what Flower's run configuration describes; log the table and write the results where it says."""
    configuration = Configuration.from_mapping(context.run_config)
    if configuration.resume:
        configuration = _resumed(configuration)
    elif configuration.out_dir:
        clear_folder(Path(configuration.out_dir), overwrite=False)
    result = run_arm(grid, configuration)
    if configuration.out_dir:
        write_results(configuration, {result.arm: result})
    log(INFO, "\n%s", results_table({result.arm: result}))


def run_arm(grid: Grid, configuration: Configuration, observer: Observer | None = None) -> ArmResult:
    """Run one arm over a grid, and return all that it produced.

    Parameters
    ----------
    grid
        Flower's connection to the agents.
    configuration
        Options of the run; its ``strategy`` names the arm.
    observer
        Called after each round.

    Raises
    ------
    MarketError
        If an option does not fit, the data cannot be read, or the agents do not connect or never answer.
    """
    arm = arm_named(configuration.strategy)
    task = configuration.load_task()
    history = History(label(configuration.run.strategy), configuration.num_server_rounds, observer)
    with _at_work(configuration), _opened_ledger(configuration) as ledger:
        strategy = arm.build(Setting(configuration, task, history, ledger))
        finished = _prepare(configuration, strategy)
        common = task.initial_model(configuration.seed)
        started = perf_counter()
        if finished < configuration.num_server_rounds:
            strategy.start(
                grid=grid,
                initial_arrays=ArrayRecord(common.state_dict()),
                num_rounds=configuration.num_server_rounds - finished,
                timeout=configuration.reply_timeout,
            )
        seconds = perf_counter() - started
        trades = strategy.broker.trades if isinstance(strategy, ParameterMarket) else []
        if not history.results:
            raise MarketError("no agent finished a single round; the warnings above say why")
        return ArmResult(
            arm=label(configuration.run.strategy),
            initialisation=arm.initialisation_in(configuration),
            trading_from=arm.exchanges_from(configuration),
            agents=_agents(configuration, history, ledger, trades),
            deals=history.deals,
            offers=history.offers,
            trades=trades,
            seconds=seconds,
        )


def _at_work(configuration: Configuration) -> AbstractContextManager[None]:
    """Return what keeps another process away from a run that is written to a folder."""
    if not configuration.out_dir:
        return nullcontext()
    return at_work(Path(configuration.out_dir), configuration.strategy)


def _opened_ledger(configuration: Configuration) -> Ledger:
    """Return the ledger, after what a new run is started with is written down: the run can be resumed from then on."""
    if configuration.out_dir and not configuration.resume:
        write_configuration(configuration)
    return Ledger.open(ledger_url(configuration))


def _resumed(given: Configuration) -> Configuration:
    """Return the options to resume a run with: the agents know those given now, which must fit the run."""
    read_configuration(Path(given.run.resume)).check_resumable(given)
    return given.with_options(out_dir=given.run.resume)


def _prepare(configuration: Configuration, strategy: Strategy) -> int:
    """Bring the strategy of a resumed run back to its last checkpoint; return its round, or 0.

    From then on the folder has the options that the run was resumed with: more rounds, for instance.
    """
    if not configuration.resume:
        return 0
    if not isinstance(strategy, ParameterMarket):
        raise MarketError(f"{configuration.strategy} keeps no checkpoints; accepted are the markets")
    folder = checkpoints_path(Path(configuration.out_dir), configuration.strategy)
    checkpoint = Checkpoints(folder).last()
    if checkpoint is not None:
        strategy.resume(checkpoint)
    elif not configuration.checkpoints_kept or (LEDGER not in os.environ and strategy.broker.ledger.deals()):
        raise MarketError(f"there is no checkpoint in {folder} to resume from")
    if strategy.finished > configuration.run.num_server_rounds:
        raise OptionError(
            f"num-server-rounds must be at least {strategy.finished}, the finished rounds of the run in "
            f"{configuration.run.out_dir}; got {configuration.run.num_server_rounds}"
        )
    write_configuration(configuration.with_options(resume=""))
    return strategy.finished


def _agents(
    configuration: Configuration, history: History, ledger: Ledger, trades: Sequence[tuple[Deal, DealState]]
) -> dict[str, AgentResult]:
    settled = [deal for deal, state in trades if state.paid]
    balances = ledger.balances()
    names = sorted({*history.results, *(agent_name(index) for index in range(configuration.agents))})
    return {
        name: AgentResult(
            rounds=tuple(history.results.get(name, ())),
            paid=sum(deal.price for deal in settled if deal.buyer == name),
            earned=sum(deal.price for deal in settled if deal.seller == name),
            balance=balances.get(name, 0),
        )
        for name in names
    }
