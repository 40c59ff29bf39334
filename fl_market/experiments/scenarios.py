"""``fl-market experiment scenarios``: which arm is best, in ten situations that agents meet.

Every arm is tuned alike; see :mod:`fl_market.experiments.tuning`. Only honest agents are scored,
each on its own targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fl_market.experiments.outcomes import percent
from fl_market.experiments.tuning import PUBLISHED, TUNED, Report, Row, Study, measure, missed
from fl_market.reports.curves import new_figure, save_figure
from fl_market.reports.table import summary_table
from fl_market.run_folder import write_json

MARKET = "market"
"""The default arm, which must stand for all markets: not the best of several."""
PLACEBO = "market-placebo"
"""A control that is no choice: its last agent sells an untrained network, and is not scored."""
MARKETS = (MARKET, "market-fine", PLACEBO)
COMMON = ("fedavg", "fedavg-local", "fedavg-tuned", "krum", "fedmedian", "fedtrimmedavg")
"""Arms that begin with one initialisation for all agents."""
ARMS = ("siloed", "siloed-tuned", "broker-only", *COMMON, "fedavg-late", "fedavg-matched", *reversed(MARKETS))
OWN_HEADS = ("siloed", "siloed-tuned", "market", "market-fine")
"""Arms whose agents may have output layers of different shapes."""

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {
        "task": "mnist-mlp",
        "train_samples": 4000,
        "broker_samples": 1000,
        "batch_size": 32,
        "num_server_rounds": 10,
        "first_round": 4,
        "test_every": 10,
        "fit_steps": 10,
        "fit_learning_rate": 0.3,
        "fit_batch_size": 100,
    },
    "full": {"task": "mnist-mlp", "num_server_rounds": 30, "test_every": 30},
}
"""Scale -> options that differ from the defaults."""


@dataclass(frozen=True)
class Scenario:
    """One situation.

    Attributes
    ----------
    title
        A line for readers.
    options
        Options of the run.
    others
        Arms -> options in place of these, for arms that need a set-up of their own.
    left_out
        Arms that would take too long.
    """

    title: str
    options: Mapping[str, Any]
    others: Mapping[tuple[str, ...], Mapping[str, Any]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms of the scenario."""
        return tuple(arm for arm in ARMS if arm not in self.left_out)

    def options_of(self, arm: str) -> dict[str, Any]:
        """Return the options of an arm."""
        return {**self.options, **next((own for arms, own in self.others.items() if arm in arms), {})}


def scenarios(rounds: int) -> dict[str, Scenario]:
    """Return the scenarios of runs of a number of rounds, by name."""
    middle = rounds // 2 + 1
    spaces = "0,1,2,3,4,5,6;3,4,5,6,7,8,9"
    four, even = {"agents": 4}, {"partition": "even"}
    whole = tuple(arm for arm in ARMS if arm not in OWN_HEADS)
    return {
        "one-purpose": Scenario("one purpose, even data", four | even),
        "halves": Scenario("the paper's halves", {"agents": 2, "partition": "halves"}),
        "own-purposes": Scenario(
            "purposes of their own", {"agents": 3, "partition": "dirichlet(0.1)", "profile": "own"}
        ),
        "random-labels": Scenario(
            "one agent in three has random labels", {"agents": 3, "faults": "none;none;random-labels"} | even
        ),
        "poisoned": Scenario(
            "one agent in four sends reversed updates", four | even | {"faults": "none;none;none;sign-flip"}
        ),
        "rich-and-poor": Scenario(
            "one rich and four poor agents", {"agents": 5, "partition": "shares(0.8, 0.05, 0.05, 0.05, 0.05)"}
        ),
        # arms of one model have an output for each class, and the same data and tests
        "label-spaces": Scenario(
            "label spaces that differ",
            {"agents": 2, "labels": spaces} | even,
            {whole: {"labels": "", "profile": spaces, "partition": "classes(7)"}},
        ),
        # arms with a common initialisation begin when the agents meet
        "late-meeters": Scenario(
            "agents that meet late",
            four | even | {"first_round": middle},
            {COMMON: {"num_server_rounds": rounds - middle + 1, "first_round": 0, "test_every": rounds}},
        ),
        "late-joiners": Scenario(
            "two agents in four join in the middle", four | even | {"joins": f"1;1;{middle};{middle}"}
        ),
        # 90 purchases by row in each round
        "ten-agents": Scenario("ten agents", {"agents": 10, "partition": "dirichlet(1)"}, left_out=("market-fine",)),
    }


def compare_in_scenarios(folder: Path, study: Study, report: Report) -> str:
    """Run all arms in each scenario; write the numbers and a picture, and return the table."""
    settings = study.settings(SETTINGS[study.scale])
    known = scenarios(settings["num_server_rounds"])
    names = study.parts(list(known))
    rows = {
        (name, arm): Row(arm, {**settings, **known[name].options_of(arm)}) for name in names for arm in known[name].arms
    }
    found = measure(rows, study, folder, report)
    cells = {key: measured.as_json() for key, measured in found.items()}
    by_name = {name: {arm: cells[name, arm] for arm in known[name].arms} for name in names}
    ranks = {name: rank({arm: cell[TUNED]["mean"] for arm, cell in arms.items()}) for name, arms in by_name.items()}
    document = {
        "scale": study.scale,
        "seeds": list(study.seeds),
        "settings": settings,
        "scenarios": {
            name: {"title": known[name].title, **ranks[name], "arms": arms} for name, arms in by_name.items()
        },
        "goal": goal(ranks),
    }
    write_json(folder / "scenarios.json", document)
    _draw(folder / "scenarios.png", by_name)
    return f"{_arms_table(study, by_name, ranks)}\n{_ranks_table(by_name, ranks)}{missed(found)}"


def rank(accuracies: Mapping[str, float]) -> dict[str, Any]:
    """Return the best arms, and the market's distance to them, in one scenario.

    Parameters
    ----------
    accuracies
        Arm -> mean accuracy.

    Examples
    --------
    >>> rank({"fedavg": 0.5, "market": 0.75, "market-fine": 0.875})["market minus best other"]
    -0.125
    """

    def best_of(arms: Sequence[str]) -> str:
        return max(arms, key=lambda arm: accuracies[arm])

    other = best_of([arm for arm in accuracies if arm not in (MARKET, PLACEBO)])
    without = best_of([arm for arm in accuracies if arm not in MARKETS])
    return {
        "best": best_of([arm for arm in accuracies if arm != PLACEBO]),
        "best other": other,
        "market minus best other": accuracies[MARKET] - accuracies[other],
        "best without a market": without,
        "market minus best without a market": accuracies[MARKET] - accuracies[without],
    }


def goal(ranks: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return in how many scenarios the market is near the best other arm, and clearly above it."""
    distances = [found["market minus best other"] for found in ranks.values()]
    return {
        "scenarios": len(distances),
        "within 0.5 points of the best other arm": sum(distance >= -0.005 for distance in distances),
        "best by 1 point or more": sum(distance >= 0.01 for distance in distances),
    }


def _arms_table(
    study: Study,
    found: Mapping[str, Mapping[str, Mapping[str, Any]]],
    ranks: Mapping[str, Mapping[str, Any]],
) -> str:
    rows = []
    for name, arms in found.items():
        for arm, cell in arms.items():
            mark = " *" if arm == ranks[name]["best"] else "  "
            rates = " / ".join(f"{rate:g}" for rate in cell["learning rates"].values())
            rows.append((name, arm, percent(cell[PUBLISHED]), percent(cell[TUNED]) + mark, rates))
    title = (
        f"Scenarios, {study.scale} scale: test accuracy (%) of the honest agents on their own targets, mean ± standard "
        f"deviation over the seeds {', '.join(map(str, study.seeds))}; * is the best"
    )
    return summary_table(title, ("scenario", "arm", PUBLISHED, f"{TUNED}  ", "learning rates"), rows, left=2)


def _ranks_table(
    found: Mapping[str, Mapping[str, Mapping[str, Any]]],
    ranks: Mapping[str, Mapping[str, Any]],
) -> str:
    rows = []
    for name, arms in found.items():
        ranked = ranks[name]
        others = [
            text
            for kind in ("best other", "best without a market")
            for text in (
                f"{ranked[kind]} {100 * arms[ranked[kind]][TUNED]['mean']:.2f}",
                f"{100 * ranked[f'market minus {kind}']:+.2f}",
            )
        ]
        rows.append((name, percent(arms[MARKET][TUNED]), *others))
    reached = ", ".join(f"{text}: {count}" for text, count in goal(ranks).items())
    header = ("scenario", MARKET, "best other arm", "market above it", "best without a market", "market above it")
    return summary_table(f"The market against the best other arm; {reached}", header, rows)


def _draw(path: Path, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Draw each arm's accuracy in each scenario as a dot, the market as a star."""
    figure = new_figure(10, max(4.5, 1.5 + 0.7 * len(found)))
    axes = figure.subplots()
    places = range(len(found))
    for number, arm in enumerate(ARMS):
        shown = [place for place, arms in enumerate(found.values()) if arm in arms]
        values = [arms[arm][TUNED] for arms in found.values() if arm in arms]
        is_market = arm == MARKET
        axes.errorbar(
            [100 * value["mean"] for value in values],
            [place + 0.05 * (number - len(ARMS) / 2) for place in shown],
            xerr=[100 * value["std"] for value in values],
            fmt="*" if is_market else "o^s"[number // 5 % 3],
            markersize=11 if is_market else 5,
            color="black" if is_market else f"C{number % 10}",
            elinewidth=0.8,
            label=arm,
        )
    axes.set(xlabel="test accuracy (%), tuned", yticks=list(places), yticklabels=list(found))
    axes.set_ylim(len(found) - 0.5, -0.5)  # the first scenario above
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)
