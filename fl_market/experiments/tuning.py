"""Fair comparisons: each arm as published, and with learning rates chosen on the broker's data.

As published, the market has the terms of the paper besides its learning rates.

Every arm tries the same number of candidates of one grid, on a seed that no table reports. The
choice is by the accuracy of the honest agents' final models on the broker's certify split, under
the agents' own objectives. The test set decides nothing.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

from fl_market.configuration import Configuration
from fl_market.errors import MarketError
from fl_market.experiments.network_tables import PUBLISHED_TERMS
from fl_market.experiments.outcomes import missed_rounds, spread
from fl_market.runner.cells import run_cells

SEEDS = (0, 1, 2)
TUNING_SEED = 1000
"""Seed of the runs that choose learning rates; no table reports it."""
PUBLISHED, TUNED = "as published", "tuned"
TWO_RATES = (
    *("fedavg-tuned", "siloed-tuned"),
    *("market", "market-fine", "market-unaligned", "market-priced", "market-placebo"),
)
"""Arms in which both the agents and the broker take gradient steps: the market's, as a service."""

Key = TypeVar("Key", bound=Hashable)
Report = Callable[[str], None]
Candidate = dict[str, float]
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Rates:
    """The grid of learning rates, in ascending order; as many of each kind.

    Attributes
    ----------
    local
        Of local training.
    tuning
        Of the broker's fine-tuning.
    """

    local: tuple[float, ...] = (0.03, 0.1, 0.3, 0.6)
    tuning: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01)

    def candidates(self, arm: str) -> list[Candidate]:
        """Return an arm's candidates: of each arm as many.

        Examples
        --------
        >>> Rates().candidates("fedavg")[0]
        {'learning_rate': 0.03}
        >>> len(Rates().candidates("fedavg-tuned"))
        4
        """
        if arm == "broker-only":  # no agent's training reaches its model
            return [{"tuning_learning_rate": rate} for rate in self.tuning]
        if arm in TWO_RATES:  # each kind's second and last but one or last, so that there are four pairs
            pairs = [(local, tuning) for local in self.local[1:3] for tuning in self.tuning[1::2]]
            return [{"learning_rate": local, "tuning_learning_rate": tuning} for local, tuning in pairs]
        return [{"learning_rate": rate} for rate in self.local]


@dataclass(frozen=True)
class Row:
    """One row of a table: an arm and its options.

    Attributes
    ----------
    arm
        Its name.
    options
        Options of the run, by their keys with underscores, except the learning rates.
    rates
        The grid.
    """

    arm: str
    options: Mapping[str, Any]
    rates: Rates = Rates()

    @property
    def candidates(self) -> list[Candidate]:
        """The learning rates that the row tries."""
        return self.rates.candidates(self.arm)


@dataclass(frozen=True)
class Study:
    """A comparison as a user asked for it.

    Attributes
    ----------
    scale
        ``"quick"`` or ``"full"``.
    data_dir
        Folder of the data sets, in the layout that :mod:`fl_market.tasks` reads.
    seeds
        Each once.
    only
        Names of the parts of the comparison to run; empty for all.
    jobs
        Number of processes; 0 for one a processor.
    device
        Device on which models are computed.
    options
        Options in place of the scale's, for tests.

    Raises
    ------
    MarketError
        If there is no seed, or the seed is the one that chooses learning rates.
    """

    scale: str
    data_dir: str
    seeds: Sequence[int] = SEEDS
    only: Sequence[str] = ()
    jobs: int = 0
    device: str = "auto"
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.seeds:
            raise MarketError("an experiment needs at least one seed")
        if TUNING_SEED in self.seeds:
            raise MarketError(f"seeds must not hold {TUNING_SEED}, which chooses the learning rates")

    def parts(self, known: Sequence[str]) -> list[str]:
        """Return the parts to run, in the order in which they are known.

        Raises
        ------
        MarketError
            If a part that the user names is unknown.
        """
        if unknown := [name for name in self.only if name not in known]:
            raise MarketError(f"unknown part {unknown[0]!r} of the experiment; known are {', '.join(known)}")
        return [name for name in known if name in self.only or not self.only]

    def settings(self, of_scale: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the scale, some of them replaced by the user's."""
        return {**of_scale, **(self.options or {})}

    def cell(self, row: Row, seed: int, **options: Any) -> Configuration:
        """Return one run of a row."""
        shared = {"data_dir": self.data_dir, "device": self.device}
        return Configuration.of(strategy=row.arm, seed=seed, **{**shared, **row.options, **options})

    def run(self, cells: Sequence[Configuration], folder: Path, report: Report) -> dict[Configuration, Result]:
        """Return the results of some cells; a run without a model in the end is a result too."""
        found = run_cells(cells, folder, jobs=self.jobs, report=report, unfinished=True)
        return dict(zip(cells, found, strict=True))


@dataclass(frozen=True)
class Measured:
    """A row's results.

    Attributes
    ----------
    runs
        ``"as published"`` or ``"tuned"`` -> the runs and their results, in the order of the seeds.
    chosen
        The learning rates that the tuned runs have.
    tried
        Each candidate with the scores that it was chosen by.
    """

    runs: Mapping[str, Mapping[Configuration, Result]]
    chosen: Candidate
    tried: Sequence[Mapping[str, float | None]]

    def accuracies(self, kind: str, market_round: int | None = None) -> list[float]:
        """Return the honest agents' mean accuracy by seed, on their own targets.

        Parameters
        ----------
        kind
            ``"as published"`` or ``"tuned"``.
        market_round
            A round with tests; by default, each agent's last.
        """
        return [accuracy_in(cell, result, market_round) for cell, result in self.runs[kind].items()]

    def as_json(self) -> dict[str, Any]:
        """Return plain types."""
        return {
            **{kind: self._of_kind(kind) for kind in self.runs},
            "learning rates": self.chosen,
            "candidates": list(self.tried),
        }

    def _of_kind(self, kind: str) -> dict[str, Any]:
        runs = self.runs[kind]
        honest = next(iter(runs)).honest_agents
        agents = {name: spread([_accuracy_of(result["agents"][name]) for result in runs.values()]) for name in honest}
        return {**spread(self.accuracies(kind)), "by seed": self.accuracies(kind), "agents": agents}


def accuracy_in(cell: Configuration, result: Result, market_round: int | None = None) -> float:
    """Return the mean accuracy of a run's honest agents; see :meth:`Measured.accuracies`."""
    return mean(_accuracy_of(result["agents"][name], market_round) for name in cell.honest_agents)


def _accuracy_of(agent: Mapping[str, Any], market_round: int | None = None) -> float:
    """Return an agent's accuracy; an agent that never had a model to test has 0."""
    if market_round is None:
        return float(agent["target_accuracy"] or 0.0)
    tested = [entry["target_accuracy"] for entry in agent["rounds"] if entry["round"] == market_round]
    return float(tested[0]) if tested else 0.0


def measure(rows: Mapping[Key, Row], study: Study, folder: Path, report: Report) -> dict[Key, Measured]:
    """Return the results of all rows, as published and with tuned learning rates.

    Parameters
    ----------
    rows
        The rows by a key of the caller's choice, the slowest last.
    study
        Seeds, data and processes.
    folder
        Folder of the cells; finished ones are not computed again.
    report
        Called with a line for each finished cell.

    Raises
    ------
    MarketError
        If a run fails; finished ones are kept.
    """
    # the slowest first: else one process ends long after the others
    backwards = [*rows.values()][::-1]
    tries = [study.cell(row, TUNING_SEED, **candidate) for row in backwards for candidate in row.candidates]
    plain = [study.cell(row, seed, **PUBLISHED_TERMS) for row in backwards for seed in study.seeds]
    results = study.run([*tries, *plain], folder, report)
    chosen = {key: tuned(row, study, results) for key, row in rows.items()}
    final = [study.cell(row, seed, **chosen[key][0]) for key, row in [*rows.items()][::-1] for seed in study.seeds]
    results |= study.run(final, folder, report)

    def of(row: Row, **changed: Any) -> dict[Configuration, Result]:
        return {cell: results[cell] for cell in (study.cell(row, seed, **changed) for seed in study.seeds)}

    return {
        key: Measured({PUBLISHED: of(row, **PUBLISHED_TERMS), TUNED: of(row, **chosen[key][0])}, *chosen[key])
        for key, row in rows.items()
    }


def tuned(
    row: Row, study: Study, results: Mapping[Configuration, Result]
) -> tuple[Candidate, list[dict[str, float | None]]]:
    """Return the candidate with the best score on the broker's data, and the scores of all.

    Of equal accuracies, the lower loss decides, then the place in the grid.

    Parameters
    ----------
    row
        Its arm and candidates.
    study
        Makes the cells.
    results
        The results of at least the candidates' cells.
    """
    scores = []
    for candidate in row.candidates:
        cell = study.cell(row, TUNING_SEED, **candidate)
        agents = [results[cell]["agents"][name] for name in cell.honest_agents]
        scores.append({key: _mean_or_none([agent[key] for agent in agents]) for key in _SCORES})
    best = max(range(len(scores)), key=lambda place: _rank(scores[place]))
    return row.candidates[best], [
        {**candidate, **score} for candidate, score in zip(row.candidates, scores, strict=True)
    ]


_SCORES = ("broker_accuracy", "broker_loss")


def _rank(score: Mapping[str, float | None]) -> tuple[float, float]:
    accuracy, loss = (score[key] for key in _SCORES)
    return -1.0 if accuracy is None else accuracy, float("-inf") if loss is None else -loss


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None


def missed(found: Mapping[Any, Measured]) -> str:
    """Return one line for each reported run in which an honest agent missed a round."""
    return missed_rounds(
        {cell: result for row in found.values() for runs in row.runs.values() for cell, result in runs.items()}
    )
