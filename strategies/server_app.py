"""The broker's Flower app: runs one arm and reports the result."""

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from fl_market.metrics import served_metrics
from fl_market.naming import agent_name
from fl_market.plugins import label
from fl_market.registry import Registry
from fl_market.reports import AgentResult, ArmResult, UnfinishedRunError
from fl_market.reports.results import check_finished
from fl_market.reports.table import results_table
from fl_market.run_folder import (
    AGENTS,
    LEDGER,
    SPLIT_SEED,
    at_work,
    checkpoints_path,
    clear_folder,
    ledger_signer,
    ledger_url,
    read_configuration,
    read_split_seed,
    registry_of_agents,
    write_configuration,
    write_results,
    write_split_seed,
)
from fl_market.tasks.task import BROKER
from fl_market.timing import Timings, measured
from strategies.arms import Setting, arm_named, check_split, known_split_seed
from strategies.baselines import Ensemble, RecordedFedAvg
from strategies.checkpoints import Checkpoints
from strategies.exchange import names_at
from strategies.history import History, Observer
from strategies.market import ParameterMarket
from strategies.patience import patient
from strategies.selection import Score, score_models

SIMULATION_GRID = "InMemoryGrid"
SPLIT_SEED_BITS = 63

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the arm of Flower's run configuration, write the results, and log the table."""
    configuration = Configuration.from_mapping(context.run_config)
    if configuration.run.resume:
        configuration = _resumed(configuration)
    elif configuration.run.out_dir:
        clear_folder(Path(configuration.run.out_dir), overwrite=False)
    try:
        waiting = patient(grid, configuration.run)
        _publish(configuration, run_arm(waiting, configuration, deployed=not _is_simulation(grid)))
    except UnfinishedRunError as error:
        _publish(configuration, error.result)
        raise


def run_arm(
    grid: Grid, configuration: Configuration, observer: Observer | None = None, *, deployed: bool = False
) -> ArmResult:
    """Run one arm over a grid, and return its result.

    Parameters
    ----------
    grid
        Flower's connection to the agents.
    configuration
        Options of the run; ``strategy`` names the arm.
    observer
        Called after each round.
    deployed
        Whether agents are on machines of others: by default, the broker's split is then random.

    Raises
    ------
    MarketError
        If an option is invalid, the data cannot be read, or the agents do not connect.
    UnfinishedRunError
        If an agent finished no round.
    """
    arm = arm_named(configuration.run.strategy)
    task = configuration.load_task(BROKER)
    check_split(arm, configuration, task)
    with (
        _begun(configuration, deployed) as split_seed,
        Ledger.open(ledger_url(configuration)) as ledger,
        served_metrics(configuration.run.metrics_port, ledger, observer) as observed,
    ):
        history = History(label(configuration.run.strategy), configuration.run.num_server_rounds, observed)
        registry = _registry(configuration) if deployed else None
        setting = Setting(configuration, task, history, ledger, split_seed, ledger_signer(configuration), registry)
        strategy = arm.build(setting)
        finished = _prepare(configuration, strategy)
        common = task.initial_model(configuration.run.seed)
        started, timings = perf_counter(), Timings()
        if finished < configuration.run.num_server_rounds or (
            isinstance(strategy, ParameterMarket) and strategy.unfinished
        ):
            with measured() if configuration.run.timings else nullcontext(timings) as timings:
                strategy.start(
                    grid=grid,
                    initial_arrays=ArrayRecord(common.state_dict()),
                    num_rounds=configuration.run.num_server_rounds - finished,
                    timeout=configuration.run.reply_timeout,
                )
        seconds = perf_counter() - started
        scores = _scores(strategy, setting)
        trades = strategy.broker.trades if isinstance(strategy, ParameterMarket) else []
        _identify_strangers(grid, configuration, history)
        result = ArmResult(
            arm=label(configuration.run.strategy),
            initialisation=arm.initialisation_in(configuration),
            trading_from=arm.exchanges_from(configuration),
            agents=_agents(configuration, history, ledger, trades, scores),
            rounds=configuration.run.num_server_rounds,
            deals=history.deals,
            offers=history.offers,
            trades=trades,
            seconds=seconds,
            timings={part: (spent, timings.calls[part]) for part, spent in timings.seconds.items()},
        )
    check_finished(result, history.reasons)
    return result


def _publish(configuration: Configuration, result: ArmResult) -> None:
    if configuration.run.out_dir:
        write_results(configuration, {result.arm: result})
    log(INFO, "\n%s", results_table({result.arm: result}))


def _at_work(configuration: Configuration) -> AbstractContextManager[None]:
    """Return the lock on the run's folder; without a folder, a context that does nothing."""
    if not configuration.run.out_dir:
        return nullcontext()
    return at_work(Path(configuration.run.out_dir), configuration.run.strategy)


@contextmanager
def _begun(configuration: Configuration, deployed: bool) -> Iterator[int]:
    """Write the options of a new run, which can be resumed from then on; return its split seed.

    The run's folder is locked inside the block.
    """
    with _at_work(configuration):
        split_seed = _split_seed(configuration, deployed)
        if configuration.run.out_dir and not configuration.run.resume:
            write_configuration(configuration)
        yield split_seed


def _split_seed(configuration: Configuration, deployed: bool) -> int:
    """Return the seed of the broker's split, drawn at random in a deployment unless it is given.

    Agents are told the options, so that a random seed is kept beside them, in the run's folder.
    """
    folder = Path(configuration.run.out_dir)
    if configuration.run.resume and (kept := read_split_seed(folder)) is not None:
        return kept
    if not deployed or configuration.run.split_seed >= 0:
        return known_split_seed(configuration)
    if configuration.run.resume:
        raise MarketError(f"the run in {folder} cannot be resumed in a deployment: {SPLIT_SEED} is missing")
    drawn = secrets.randbits(SPLIT_SEED_BITS)
    if configuration.run.out_dir:
        write_split_seed(folder, drawn)
    return drawn


def _registry(configuration: Configuration) -> Registry | None:
    """Return the registry of a deployment.

    Raises
    ------
    MarketError
        If there is none, and neither do accounts belong to nodes nor is a run with strangers
        wanted.
    """
    registry, run = registry_of_agents(), configuration.run
    if registry is None and not run.bind_accounts and not run.unauthenticated:
        raise MarketError(
            f"a run over the network needs to know its agents: name a registry in {AGENTS} (fl-market agents add), or "
            "set bind-accounts, which ties each account to an authenticated node, or else unauthenticated"
        )
    return registry


def _is_simulation(grid: Grid) -> bool:
    """Return whether Flower simulates the agents in the broker's own process.

    Its grid is named, not imported: its module differs between releases. Any other grid counts as
    one of a deployment, so that an error costs reproducibility and not secrecy.
    """
    return any(kind.__name__ == SIMULATION_GRID for kind in type(grid).__mro__)


def _resumed(given: Configuration) -> Configuration:
    """Return the options of a resumed run; those given now must be compatible with its own."""
    read_configuration(Path(given.run.resume)).check_resumable(given)
    return given.with_options(out_dir=given.run.resume)


def _prepare(configuration: Configuration, strategy: Strategy) -> int:
    """Restore the last checkpoint of a resumed run; return its round, or 0.

    From then on, the folder holds the options of the resumption, such as more rounds.
    """
    if not configuration.run.resume:
        return 0
    if not isinstance(strategy, ParameterMarket):
        raise MarketError(f"{configuration.run.strategy} keeps no checkpoints; only the markets can be resumed")
    folder = checkpoints_path(Path(configuration.run.out_dir), configuration.run.strategy)
    checkpoint = Checkpoints(folder).last()
    if checkpoint is not None:
        strategy.resume(checkpoint)
    elif not configuration.run.checkpoints_kept or (LEDGER not in os.environ and strategy.broker.ledger.deals()):
        raise MarketError(f"there is no checkpoint in {folder} to resume from")
    if strategy.finished > configuration.run.num_server_rounds:
        raise OptionError(
            f"num-server-rounds must be at least {strategy.finished}, the finished rounds of the run in "
            f"{configuration.run.out_dir}; got {configuration.run.num_server_rounds}"
        )
    write_configuration(configuration.with_options(resume=""))
    return strategy.finished


def _identify_strangers(grid: Grid, configuration: Configuration, history: History) -> None:
    """Attribute the failures of unidentified nodes to agents, if the nodes now send their names."""
    strangers = [node for node in history.failed if isinstance(node, int)]
    history.identify(names_at(grid, strangers, configuration.run.num_server_rounds, configuration.run.reply_timeout))


def _scores(strategy: Strategy, setting: Setting) -> dict[str, Score]:
    """Return the score of each agent's final model, as far as the server knows it."""
    if isinstance(strategy, Ensemble) or not isinstance(strategy, ParameterMarket | RecordedFedAvg):
        return {}
    try:
        _, certify = setting.splits
    except MarketError:  # too small: arms that certify nothing run all the same
        return {}
    seed, hardware = setting.configuration.run.seed, setting.configuration.hardware
    return score_models(strategy.final_models, setting.task, certify, seed=seed, hardware=hardware)


def _agents(
    configuration: Configuration,
    history: History,
    ledger: Ledger,
    trades: Sequence[tuple[Deal, DealState]],
    scores: Mapping[str, Score],
) -> dict[str, AgentResult]:
    settled = [deal for deal, state in trades if state.paid]
    balances = ledger.balances()
    return {
        name: AgentResult(
            rounds=tuple(history.results.get(name, ())),
            rounds_finished=history.finished[name],
            failed_replies=history.failed[name],
            paid=sum(deal.price for deal in settled if deal.buyer == name),
            earned=sum(deal.price for deal in settled if deal.seller == name),
            balance=balances.get(name, 0),
            broker_loss=scores[name].loss if name in scores else None,
            broker_accuracy=scores[name].accuracy if name in scores else None,
        )
        for name in _names(configuration, history)
    }


def _names(configuration: Configuration, history: History) -> list[str]:
    """Return the names of the agents that took part or failed, filled up to the number expected.

    In a deployment, agents may have numbers other than 0, 1, … and therefore other names.
    """
    known = {*history.results, *history.finished, *(agent for agent in history.failed if isinstance(agent, str))}
    absent = [name for index in range(configuration.run.agents) if (name := agent_name(index)) not in known]
    return sorted({*known, *absent[: max(0, configuration.run.agents - len(known))]})
