"""``fl-market bench certificates``: the share of runs with a false certificate.

Runs are simulated on score differences, without any network: each trial is one difference for each
sample of the certify split, which all rounds share, as in a market. The purchases that count have a
true gain of 0, the null hypothesis that is hardest to keep. ``trial`` certifies each trial for
itself, by Student's t; ``run`` all trials of a run together, by betting and an error budget.

Some sellers adapt to what they are told: whether a purchase was certified, and its gain, rounded
down to one digit. The proof of the budget (:mod:`fl_market.gains.budget`) covers them as long as
that depends little on the samples. Probers are the worst case beyond it. Their buyers never buy, so
that a true gain is certified round after round, and each answer tells them the direction of one
more random change on the certify split. In the last round they sell the sum of the changes.
"""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fl_market.gains import ErrorBudget, mean_exceeds
from fl_market.naming import agent_name
from fl_market.reports.curves import new_figure, save_figure
from fl_market.reports.table import summary_table
from fl_market.run_folder import claim_file, write_json
from fl_market.seeds import numpy_generator

AGENTS, ROUNDS, SAMPLES, ERROR = 3, 30, 500, 0.05
STEP, CHANGED = 0.4, 0.1
"""Size of a difference, and share of the samples that differ, as with nearly equal classifiers."""
PROBES = ROUNDS - 1
"""Number of probes before a prober sells the sum of its changes."""

Differences = NDArray[np.float64]


@dataclass(frozen=True)
class Proposal:
    """A possible purchase.

    Attributes
    ----------
    differences
        Score before less score after, one for each sample of the certify split, in [-1, 1].
    gain
        Expectation of the differences; at most 0 makes a certificate false.
    """

    differences: Differences
    gain: float = 0.0


Seller = Generator[Proposal, float | None, None]
"""Yields a proposal in each round; receives the told gain if it was certified, else None."""


def independent(dice: np.random.Generator) -> Seller:
    """Yield a new proposal in each round."""
    while True:
        yield Proposal(_change(dice))


def rare_harm(dice: np.random.Generator) -> Seller:
    """Yield new proposals that gain a little on most samples, and lose as much on a few."""
    lost = 1 / 101
    while True:
        yield Proposal(np.where(dice.random(SAMPLES) < lost, -1.0, 0.01))


def stubborn(dice: np.random.Generator) -> Seller:
    """Yield one proposal again and again, with small changes."""
    kept = _change(dice)
    while True:
        yield Proposal(0.9 * kept + 0.1 * _change(dice))


def imitator(dice: np.random.Generator) -> Seller:
    """Yield the last certified proposal with small changes, and new ones until there is one."""
    kept = None
    while True:
        proposal = _change(dice) if kept is None else 0.9 * kept + 0.1 * _change(dice)
        if (yield Proposal(proposal)) is not None:
            kept = proposal


def climber(dice: np.random.Generator) -> Seller:
    """Yield a true gain, and once it is bought, changes of it that add nothing.

    Its changes accumulate while the told gain does not fall.
    """
    gain, best = dice.uniform(0.01, 0.05), -math.inf
    kept, bought = np.zeros(SAMPLES), None
    while True:
        changed = kept + 0.3 * _change(dice)
        own = np.clip(gain + changed, -1, 1) if bought is None else np.clip(changed - bought, -1, 1)
        told = yield Proposal(own, gain if bought is None else 0.0)
        if told is not None and told >= best:
            kept, best, bought = changed, told, changed


def gain_prober(dice: np.random.Generator) -> Seller:
    """Probe changes by the told gain of a true gain that is about to be rounded up."""
    gain = 0.05
    while True:
        found = np.zeros(SAMPLES)
        for _ in range(PROBES):
            change = _change(dice)
            told = yield Proposal(gain + change, gain)
            if told is not None:
                found += change if told >= gain else -change
        yield Proposal(_scaled(found))


def success_prober(dice: np.random.Generator) -> Seller:
    """Probe changes by the success of a true gain that is certified every second time."""
    gain = 0.02
    while True:
        found = np.zeros(SAMPLES)
        for _ in range(PROBES):
            change = _change(dice)
            told = yield Proposal(gain + change, gain)
            found += change if told is not None else -change
            gain *= 0.9 if told is not None else 1.1
        yield Proposal(_scaled(found))


SELLERS: dict[str, Callable[[np.random.Generator], Seller]] = {
    "independent": independent,
    "rare harm": rare_harm,
    "stubborn": stubborn,
    "imitator": imitator,
    "climber": climber,
    "prober of successes": success_prober,
    "prober of gains": gain_prober,
}
SCOPES = ("trial", "run")


def certificates(out_dir: str, *, runs: int = 1000, seed: int = 0, overwrite: bool = False) -> str:
    """Simulate runs of each kind of seller; write ``certificates.json``, a picture, return a table.

    Parameters
    ----------
    out_dir
        Folder of the files.
    runs
        Number of runs of each kind of seller, for each scope of the certificates.
    seed
        Decides the samples.
    overwrite
        Whether earlier files may be overwritten.

    Raises
    ------
    MarketError
        If the files exist and may not be overwritten.
    """
    folder = claim_file(Path(out_dir), "certificates.json", overwrite)
    found = {kind: {scope: false_by_round(kind, scope, runs, seed) for scope in SCOPES} for kind in SELLERS}
    setting = {"agents": AGENTS, "rounds": ROUNDS, "samples": SAMPLES, "error": ERROR, "runs": runs, "seed": seed}
    write_json(folder / "certificates.json", setting | {"runs with a false certificate by round": found})
    _draw(found, runs, folder / "certificates.png")
    rows = [(kind, *(f"{100 * counts[scope][-1] / runs:.1f}" for scope in SCOPES)) for kind, counts in found.items()]
    title = f"{runs} runs each, of {AGENTS} agents and {ROUNDS} rounds: share with a false certificate"
    return summary_table(title, ("sellers", *(f"{scope} (%)" for scope in SCOPES)), rows)


def false_by_round(kind: str, scope: str, runs: int, seed: int) -> list[int]:
    """Return for each round the number of runs with a false certificate until then.

    Parameters
    ----------
    kind
        Kind of all sellers, of ``SELLERS``.
    scope
        One of ``SCOPES``.
    runs
        Number of runs.
    seed
        Decides the samples.
    """
    dice = (numpy_generator(seed, "certificates", kind, number) for number in range(runs))
    first = [first_false_certificate(SELLERS[kind], scope, one) for one in dice]
    return [sum(found is not None and found <= number for found in first) for number in range(1, ROUNDS + 1)]


def first_false_certificate(
    make: Callable[[np.random.Generator], Seller], scope: str, dice: np.random.Generator
) -> int | None:
    """Return the round of a run's first false certificate, or None if there is none."""
    pairs = list(permutations(map(agent_name, range(AGENTS)), 2))
    sellers = {pair: make(dice) for pair in pairs}
    proposals = {pair: next(seller) for pair, seller in sellers.items()}
    budget = ErrorBudget(ERROR)
    for number in range(1, ROUNDS + 1):
        levels = {pair: budget.level(number, len(pairs), pair) if scope == "run" else ERROR for pair in pairs}
        test = certified if scope == "run" else certified_by_student
        passed = {pair: test(proposals[pair].differences, levels[pair]) for pair in pairs}
        if any(passed[pair] and proposals[pair].gain <= 0 for pair in pairs):
            return number
        budget = budget.after({pair: (levels[pair], passed[pair]) for pair in pairs})
        proposals = {
            pair: seller.send(told(float(proposals[pair].differences.mean())) if passed[pair] else None)
            for pair, seller in sellers.items()
        }
    return None


def certified(differences: Differences, level: float) -> bool:
    """Return whether a gain is certified by betting."""
    return mean_exceeds(differences, -1.0, 1.0, 0.0, level)


def certified_by_student(differences: Differences, level: float) -> bool:
    """Return whether a gain is certified by Student's t."""
    deviation = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return float(differences.mean()) > float(stats.t.isf(level, len(differences) - 1)) * deviation


def told(gain: float) -> float:
    """Return a gain rounded down to one significant digit.

    Examples
    --------
    >>> told(0.0376), told(0.05), told(0.0)
    (0.03, 0.05, 0.0)
    """
    if not gain:
        return 0.0
    digits = -math.floor(math.log10(abs(gain)))
    return round(math.floor(round(gain * 10.0**digits, 9)) / 10.0**digits, max(digits, 0))


def _change(dice: np.random.Generator) -> Differences:
    """Return differences whose expectation is 0."""
    draws = dice.random(SAMPLES)
    found: Differences = STEP * ((draws < CHANGED / 2).astype(float) - (draws > 1 - CHANGED / 2))
    return found


def _scaled(differences: Differences) -> Differences:
    """Return symmetric differences as small as those of one change."""
    deviation = float(differences.std())
    wanted = STEP * math.sqrt(CHANGED)
    found: Differences = np.clip(differences * (wanted / deviation if deviation else 1.0), -1.0, 1.0)
    return found


def _draw(found: dict[str, dict[str, list[int]]], runs: int, path: Path) -> None:
    figure = new_figure(9, 3.8)
    panels, ticks = figure.subplots(1, len(SCOPES)), (0, 1, 5, 20, 100)
    for scope, panel in zip(SCOPES, panels, strict=True):
        for kind, counts in found.items():
            panel.plot(range(1, ROUNDS + 1), [100 * count / runs for count in counts[scope]], label=kind)
        panel.axhline(100 * ERROR, color="black", linestyle="--")
        panel.set(title=scope, xlabel="round", yscale="symlog", ylim=(0, 105))
        panel.set_yticks(ticks, labels=map(str, ticks))
    panels[0].set(ylabel="runs with a false certificate (%)")
    panels[-1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)
