"""Trials in processes of this machine: the same results to the last bit, also if a process dies."""

import logging
import os
import signal
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fl_market.broker import Broker, Terms
from fl_market.configuration import Configuration
from fl_market.errors import OptionError
from fl_market.market import executors
from fl_market.market.executors import Executor, parse_executor, processes, ray_cluster, serial
from fl_market.model_files import ModelFile, ModelFiles, in_memory
from fl_market.naming import agent_name
from fl_market.runner.engines import run_inline
from fl_market.runner.environment import set_environment
from strategies import arms


def splits():
    dice = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 150, 6, generator=dice)
    return [(part, (part[:, 0] > part[:, 1]).long()) for part in inputs]


def opened(execute, keep=in_memory, **terms):
    """Return a round among four agents, in which one has a weak model."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    models = {}
    (inputs, targets), _ = splits()
    for place in range(4):
        own = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
        optimiser = torch.optim.SGD(own.parameters(), 0.3)
        for _ in range(10 * place):
            optimiser.zero_grad()
            nn.functional.cross_entropy(own(inputs[place::4]), targets[place::4]).backward()
            optimiser.step()
        models[agent_name(place)] = keep(own.state_dict())
    criterion = nn.CrossEntropyLoss(reduction="none")
    made = Broker(model, criterion, *splits(), terms=Terms(fit_steps=5, **terms), execute=execute, keep=keep)
    for agent in models:
        made.seat(agent)
    return made.open_round(models, 2)


def listed(model):
    return {name: tensor.tolist() for name, tensor in model.items()}


def content(trading):
    """Return all that a round found, in plain types."""
    models = {agent: listed(model) for agent, model in trading.served.items()}
    orders = {
        pair: {group: order.tolist() for group, order in permutation.items()}
        for pair, permutation in trading.state.permutations.items()
    }
    trials = [
        (trial.sellers, trial.buyer, trial.alpha, trial.certificate, trial.promise, trial.levels, listed(trial.merged))
        for trial in trading.trials
    ]
    return trials, models, orders, dict(trading.state.fruitless)


@pytest.mark.parametrize("terms", [{}, {"max_purchases": 3}, {"granularity": "row"}, {"candidates": 2}])
def test_processes_find_the_same_to_the_last_bit(terms):
    alone = content(opened(serial, **terms))
    assert content(opened(processes(3), **terms)) == alone
    assert alone[0]
    assert alone[2]


def test_a_buyer_s_trials_depend_on_no_other_buyer():
    """In whatever order the buyers come."""

    def backwards(function, items):
        return list(serial(function, items[::-1]))[::-1]

    assert content(opened(backwards)) == content(opened(serial))


def test_a_process_that_dies_costs_nothing(caplog):
    home = os.getpid()

    def computed(number):
        if number == 2 and os.getpid() != home:
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    assert list(processes(2)(computed, [1, 2, 3])) == [1, 4, 9]
    assert "a process of the broker died; its trials are repeated in the broker" in caplog.text


def test_an_error_in_a_process_is_an_error_here():
    def computed(number):
        raise ValueError(f"no {number}")

    with pytest.raises(ValueError, match="no 1"):
        list(processes(2)(computed, [1, 2]))
    assert executors._inherited == [], "this process inherits nothing"


def test_work_runs_in_processes_of_its_own():
    found = list(processes(2)(lambda _: os.getpid(), [1, 2, 3, 4]))
    assert os.getpid() not in found
    assert list(processes(2)(lambda _: os.getpid(), [1])) == [os.getpid()], "one item needs no process"
    assert list(processes(1)(lambda _: os.getpid(), [1, 2])) == [os.getpid()] * 2


@pytest.mark.parametrize("text", ["threads", "ray()", "ray(a b)", "processes(0)", "processes(x)", "", "processes(2"])
def test_unknown_executors_are_named(text):
    with pytest.raises(
        OptionError, match=r"executor must be serial, processes, processes\(NUMBER\), ray or ray\(ADDRESS\)"
    ):
        parse_executor(text)
    with pytest.raises(OptionError, match="executor is invalid"):
        Configuration.of(executor=text)


def test_platforms_without_fork_say_so(monkeypatch):
    monkeypatch.setattr(executors.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(OptionError, match="executor must be serial on this platform"):
        parse_executor("processes")
    assert parse_executor("serial") is serial


def test_an_accelerator_has_one_process():
    options = SimpleNamespace(
        run=SimpleNamespace(executor="processes"), hardware=SimpleNamespace(device=torch.device("cuda"))
    )
    with pytest.raises(OptionError, match="executor must be serial on cuda; got 'processes'"):
        arms._executor(options)


@pytest.mark.flower
def test_a_run_is_the_same_in_processes():
    options = {"strategy": "market-priced", "num_server_rounds": 3, "first_round": 2, "learning_rate": 0.1}
    results = [run_inline(Configuration.of(**options, executor=text)).as_json() for text in ("serial", "processes(2)")]
    for result in results:
        result.pop("seconds")
    assert results[0] == results[1]
    assert results[0]["deals"]


@pytest.fixture(scope="module")
def cluster():
    """A local Ray cluster of two workers."""
    ray = pytest.importorskip("ray", reason="flwr[simulation] is not installed")
    set_environment()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    yield ray
    ray.shutdown()


@dataclass(frozen=True)
class Deadly:
    """An executor whose worker is killed in the middle of a round, once."""

    inner: Executor
    marker: Path
    victim: str

    def __call__(self, function, items):
        return self.inner(partial(self._computed, function), items)

    def _computed(self, function, item):
        if item == self.victim and not self.marker.exists():
            self.marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return function(item)


def test_a_ray_cluster_finds_the_same_although_a_worker_is_killed(cluster, tmp_path):
    alone = content(opened(serial))
    deadly = Deadly(ray_cluster(), tmp_path / "killed", "B")
    assert content(opened(deadly)) == alone
    assert int(deadly.marker.read_text()) != os.getpid()


def test_ray_returns_results_in_order_and_passes_errors_on(cluster):
    assert list(ray_cluster()(lambda number: number * number, range(7))) == [0, 1, 4, 9, 16, 25, 36]

    def computed(number):
        raise ValueError(f"no {number}")

    with pytest.raises(ValueError, match="no 1"):
        list(ray_cluster()(computed, [1, 2]))


def test_ray_gets_the_names_of_model_files_and_returns_such(cluster, tmp_path):
    files = ModelFiles(tmp_path)
    alone, elsewhere = (opened(execute, keep=files.keep) for execute in (serial, ray_cluster()))
    assert content(elsewhere) == content(alone)
    merged = [trial.merged for trial in elsewhere.trials if trial.merged]
    assert merged
    assert all(isinstance(model, ModelFile) for model in merged)


def test_ray_must_be_installed(monkeypatch):
    monkeypatch.setattr(executors.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"needs Ray, which flwr\[simulation\] installs"):
        parse_executor("ray(127.0.0.1:6379)")
