"""``fl-market bench scale``: the broker's time by the number of agents, with few candidates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from clients.training import make_optimiser, train
from fl_market.broker import Broker, Terms
from fl_market.configuration import Configuration
from fl_market.gains import split_in_halves
from fl_market.naming import agent_name
from fl_market.parameters import StateDict
from fl_market.reports.curves import new_figure, save_figure
from fl_market.reports.results import ArmResult
from fl_market.reports.table import summary_table
from fl_market.run_folder import claim_file, write_json
from fl_market.runner.engines import run_inline
from fl_market.tasks import Task, TaskOptions, load_task
from fl_market.timing import Timings, measured

SIZES = (8, 16, 32, 64, 128)
"""Numbers of agents of which the broker's time is measured."""
CANDIDATES = 4
EPOCHS = 3
AGENTS, ROUNDS = 16, 8
"""Agents and rounds of the markets with and without candidates."""
MARKET = {"strategy": "market", "partition": "dirichlet(0.3)", "learning_rate": 0.1, "first_round": 2}
"""The options of those markets."""
Report = Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """A market with candidates beside the same one in which all pairs are tried.

    Attributes
    ----------
    seed
        Of both.
    surplus
        Certified gains of all purchases, with candidates and with all pairs.
    accuracy
        Mean test accuracy of the agents, likewise.
    seconds
        Wall time, likewise.
    """

    seed: int
    surplus: tuple[float, float]
    accuracy: tuple[float, float]
    seconds: tuple[float, float]


def scale(
    out_dir: str,
    *,
    sizes: Sequence[int] = SIZES,
    seeds: Sequence[int] = (0,),
    overwrite: bool = False,
    report: Report = print,
) -> str:
    """Measure the broker's time by the number of agents, and compare candidates with all pairs.

    Writes ``scale.json`` and ``scale.png``.

    Parameters
    ----------
    out_dir
        Folder of the two files.
    sizes
        Numbers of agents.
    seeds
        Of the markets with and without candidates.
    overwrite
        Whether earlier files may be overwritten.
    report
        Called with a line for each measurement.

    Raises
    ------
    MarketError
        If the files exist and may not be overwritten, or a run fails.
    """
    folder = claim_file(Path(out_dir), "scale.json", overwrite)
    times: dict[int, dict[str, float]] = {}
    parts: dict[str, dict[str, float]] = {}
    for agents in sorted(sizes):
        rounds = {name: time_of_round(agents, number, max(sizes)) for name, number in _ways(agents).items()}
        times[agents] = {name: sum(timings.seconds.values()) for name, timings in rounds.items()}
        parts |= {f"{agents} agents, {name}": dict(timings.seconds) for name, timings in rounds.items()}
        report(f"{agents} agents: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in times[agents].items()))
    compared = []
    for seed in seeds:
        compared.append(compare(seed))
        report(f"seed {seed}: {compared[-1]}")
    write_json(
        folder / "scale.json",
        {
            "candidates": CANDIDATES,
            "seconds of the broker in a round, by agents": {str(agents): found for agents, found in times.items()},
            "parts of it": parts,
            f"markets of {AGENTS} agents, with candidates and with all pairs": [vars(one) for one in compared],
        },
    )
    _draw(times, folder / "scale.png")
    return _table(times, compared)


def _ways(agents: int) -> dict[str, int]:
    """Return the numbers of candidates to measure; all pairs of many agents would take hours."""
    ways = {f"{CANDIDATES} candidates": CANDIDATES}
    return ways | ({"all pairs": 0} if agents <= AGENTS else {})


def time_of_round(agents: int, candidates: int, of: int) -> Timings:
    """Return where the time of the broker's trials in one round goes.

    Parameters
    ----------
    agents
        Number of agents.
    candidates
        Sellers tried for each buyer; 0 for all.
    of
        Number of parts of the MNIST sample, on one of which each agent trains for a few epochs.
        Agents then know equally much, however many take part.
    """
    task = load_task("mnist-mlp", TaskOptions(name="mnist-mlp", agents=of, partition="even"))
    fit, certify = split_in_halves(task.broker, 0)
    broker = Broker(task.build_model(), task.criterion, fit, certify, terms=Terms(candidates=candidates))
    models = {agent_name(index): _trained(task, index) for index in range(agents)}
    for agent in models:
        broker.seat(agent)
    few = dict(list(models.items())[:2])
    broker.open_round(few, 1)  # code and data are loaded
    with measured() as timings:
        broker.open_round(models, 2)
    return timings


def _trained(task: Task, index: int) -> StateDict:
    model = task.initial_model(0, agent_name(index))
    train(
        model,
        make_optimiser(model, "sgd", 0.1, 0.0),
        task.criterion,
        task.agents[index],
        epochs=EPOCHS,
        batch_size=16,
        seed=0,
        purpose=("scale", index),
    )
    return model.state_dict()


def compare(seed: int) -> Comparison:
    """Run a market with candidates, and the same one in which all pairs are tried."""
    runs = [
        run_inline(
            Configuration.of(
                **MARKET, agents=AGENTS, num_server_rounds=ROUNDS, seed=seed, candidates=number, test_every=ROUNDS
            )
        )
        for number in (CANDIDATES, 0)
    ]
    return Comparison(
        seed,
        surplus=_both(runs, lambda run: sum(deal.gain for deal, state in run.trades if state.paid)),
        accuracy=_both(runs, lambda run: mean(agent.rounds[-1].test_accuracy for agent in run.agents.values())),
        seconds=_both(runs, lambda run: run.seconds),
    )


def _both(runs: Sequence[ArmResult], measure: Callable[[ArmResult], float]) -> tuple[float, float]:
    return measure(runs[0]), measure(runs[1])


def _table(times: dict[int, dict[str, float]], compared: Sequence[Comparison]) -> str:
    rows = [
        (f"{agents} agents, {name}", f"{seconds:.1f} s")
        for agents, found in times.items()
        for name, seconds in found.items()
    ]
    name = f"{CANDIDATES} candidates"
    rows += [
        (f"{name}: {2 * half} agents over {half}", f"{times[2 * half][name] / times[half][name]:.2f}")
        for half in times
        if 2 * half in times
    ]
    for one in compared:
        share = one.surplus[0] / one.surplus[1] if one.surplus[1] else float("nan")
        points = 100 * (one.accuracy[0] - one.accuracy[1])
        rows.append((f"{AGENTS} agents, seed {one.seed}: surplus over that of all pairs", f"{share:.3f}"))
        rows.append((f"{AGENTS} agents, seed {one.seed}: accuracy beside all pairs", f"{points:+.2f} points"))
        rows.append(
            (f"{AGENTS} agents, seed {one.seed}: time over all pairs'", f"{one.seconds[0] / one.seconds[1]:.2f}")
        )
    return summary_table("The broker's time in a round, and markets with candidates", ("", ""), rows)


def _draw(times: dict[int, dict[str, float]], path: Path) -> None:
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for name in _ways(AGENTS):
        sizes = [agents for agents, found in times.items() if name in found]
        if sizes:
            axes.plot(sizes, [times[agents][name] for agents in sizes], marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="agents", ylabel="seconds of the broker in a round")
    axes.legend()
    save_figure(figure, path)
