"""How long a comparison will take, from a short measurement on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from clients.training import evaluate, make_optimiser, train
from fl_market.configuration import Configuration
from fl_market.ledger import Ledger
from fl_market.naming import agent_name
from fl_market.reports.progress import duration
from fl_market.tasks import Task
from strategies.arms import Setting, arm_named
from strategies.history import History
from strategies.market import ParameterMarket

BATCHES, TESTED = 10, 1000
"""Training batches and test samples that are timed."""
PLACEBOS = 3
"""Sellers that are tried for each buyer beside the others."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of a comparison whose agents compute in this process.

    Attributes
    ----------
    training, tests, trials
        Of all arms and rounds: the agents' local updates and tests, and the broker's trials.
    """

    training: float
    tests: float
    trials: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.training + self.tests + self.trials

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in vars(self).items() if seconds)
        return f"this will take about {duration(self.seconds)} ({parts})"


def estimate(configuration: Configuration, arms: Sequence[str], seeds: int = 1) -> Estimate:
    """Measure a few batches, and one round of trials between untrained models.

    The trials of trained models can take up to twice as long: the broker serves what promises a
    gain.

    Parameters
    ----------
    configuration
        Options that all arms share.
    arms
        Names of the arms.
    seeds
        Number of repetitions.

    Raises
    ------
    MarketError
        If the data cannot be read.
    """
    run, task = configuration.run, configuration.load_task()
    repeated = seeds * len(arms)
    tests = sum(configuration.tests_in(number + 1) for number in range(run.num_server_rounds))
    epochs, size = configuration.training.local_epochs, _batch_size(configuration, task)
    batches = epochs * sum(-(-len(data[0]) // size) for data in task.agents)
    return Estimate(
        repeated * run.num_server_rounds * batches * _of_batch(configuration, task),
        repeated * tests * run.agents * _of_test(configuration, task),
        seeds * sum(_of_trials(configuration.with_options(strategy=arm, out_dir=""), task) for arm in arms),
    )


def _batch_size(configuration: Configuration, task: Task) -> int:
    return configuration.training.batch_size or task.batch_size


def _of_batch(configuration: Configuration, task: Task) -> float:
    """Return the seconds of a step of local training."""
    size, hardware = _batch_size(configuration, task), configuration.hardware
    inputs, targets = max(task.agents, key=lambda data: len(data[0]))
    model = task.build_model().to(hardware.device)
    optimiser = make_optimiser(model, configuration.training.optimiser, 1e-6, 0.0)

    def trained(batches: int) -> float:
        began = perf_counter()
        some = inputs[: batches * size], targets[: batches * size]
        train(model, optimiser, task.criterion, some, epochs=1, batch_size=size, seed=0, purpose=(), hardware=hardware)
        return perf_counter() - began

    trained(2)  # code and memory are there from then on
    return trained(BATCHES) / min(BATCHES, -(-len(inputs) // size))


def _of_test(configuration: Configuration, task: Task) -> float:
    """Return the seconds of one agent's test."""
    inputs, targets = task.test
    some, hardware = (inputs[:TESTED], targets[:TESTED]), configuration.hardware
    model, began = task.build_model().to(hardware.device), perf_counter()
    evaluate([model], task.criterion, some, hardware=hardware)
    return (perf_counter() - began) * len(inputs) / max(1, len(some[0]))


def _of_trials(configuration: Configuration, task: Task) -> float:
    """Return the seconds of the broker's trials in one arm's run; 0 for an arm without any."""
    run = configuration.run
    arm, rounds = arm_named(run.strategy), run.num_server_rounds
    with Ledger.open() as ledger:
        strategy = arm.build(Setting(configuration, task, History(arm.title, rounds), ledger))
        if not isinstance(strategy, ParameterMarket) or type(strategy).exchange is not ParameterMarket.exchange:
            return 0.0
        traded, broker = sum(map(strategy.trades_in, range(1, rounds + 1))), strategy.broker
        models = {name: task.initial_model(run.seed, name).state_dict() for name in map(agent_name, range(2))}
        for agent in models:
            broker.seat(agent)
        began = perf_counter()
        broker.open_round(models, 1)
        of_buyer = (perf_counter() - began) / 2
    others, candidates = run.agents - 1, configuration.market.candidates
    sellers = min(others, candidates) if candidates else others
    return traded * run.agents * of_buyer * (PLACEBOS + sellers) / (PLACEBOS + 1)
