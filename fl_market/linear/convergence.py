r"""Rounds to convergence with and without trade (paper, section 5, Theorem 5.1).

Agent A leads and never buys. Agent B takes gradient steps of size η on its own loss and always
buys. B's least gradient norm is at most ε after :math:`2(L(\theta^0) - L(\theta^*)) /
(\eta\varepsilon^2 + 2\delta_b)` rounds. Here :math:`\delta_b` is the least gain-from-trade (Eq. 4)
so far; without trade, :math:`\delta_b = 0`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fl_market.linear.market import Array
from fl_market.seeds import numpy_generator


@dataclass(frozen=True)
class Convergence:
    r"""Rounds until B's gradient norm was at most ε, and the theorem's bounds, for each ε.

    Attributes
    ----------
    accuracies
        The ε.
    traded, siloed
        Rounds that B took, always buying and never.
    traded_bound, siloed_bound
        The theorem's bounds of these rounds.
    least_gain
        :math:`\delta_b` over the rounds that B took.
    """

    accuracies: tuple[float, ...]
    traded: tuple[int, ...]
    siloed: tuple[int, ...]
    traded_bound: tuple[float, ...]
    siloed_bound: tuple[float, ...]
    least_gain: tuple[float, ...]


@dataclass(frozen=True)
class SmoothProblem:
    """Least squares without noise: smooth, with one minimiser that all agents share.

    Attributes
    ----------
    dimension
        Of the parameters.
    samples
        Training samples of A and of B.
    head_start
        Rounds that A has trained before the first one.
    accuracies
        Gradient norms ε to reach, as shares of the first one.
    """

    dimension: int = 50
    samples: tuple[int, int] = (400, 100)
    head_start: int = 10
    accuracies: tuple[float, ...] = (0.5, 0.3, 0.1, 0.03, 0.01, 0.003)

    def run(self, seed: int = 0) -> Convergence:
        """Count the rounds, and compare them with the bounds.

        Parameters
        ----------
        seed
            Decides the data and the true parameters.
        """
        generator = numpy_generator(seed, "theorem-5.1")
        truth = generator.normal(size=self.dimension)
        leader, follower = (
            (inputs, inputs @ truth)
            for inputs in (generator.normal(size=(count, self.dimension)) for count in self.samples)
        )
        rate = 0.9 / max(_smoothness(inputs) for inputs, _ in (leader, follower))
        start = np.zeros(self.dimension)
        ahead = start
        for _ in range(self.head_start):
            ahead = ahead - rate * _gradient(leader, ahead)
        first_norm = float(np.linalg.norm(_gradient(follower, start)))
        goals = tuple(share * first_norm for share in self.accuracies)
        traded, gains = _rounds(follower, start, goals, rate, leader, ahead, truth)
        siloed, _ = _rounds(follower, start, goals, rate, None, start, truth)
        # the population loss of a model is its squared distance from the truth
        height = float(truth @ truth)
        least = tuple(min(gains[:count], default=0.0) for count in traded)
        return Convergence(
            accuracies=goals,
            traded=traded,
            siloed=siloed,
            traded_bound=tuple(
                2 * height / (rate * goal**2 + 2 * gain) for goal, gain in zip(goals, least, strict=True)
            ),
            siloed_bound=tuple(2 * height / (rate * goal**2) for goal in goals),
            least_gain=least,
        )


Problem = tuple[Array, Array]
"""Inputs and targets."""


def _rounds(
    problem: Problem,
    model: Array,
    goals: Sequence[float],
    rate: float,
    leader: Problem | None,
    ahead: Array,
    truth: Array,
) -> tuple[tuple[int, ...], list[float]]:
    """Return the rounds until each goal was first met, and the gain-from-trade of each round."""
    reached: list[int] = []
    gains: list[float] = []
    rounds = 0
    while len(reached) < len(goals):
        slope = _gradient(problem, model)
        while len(reached) < len(goals) and np.linalg.norm(slope) <= goals[len(reached)]:
            reached.append(rounds)
        model = model - rate * slope
        if leader is not None:
            ahead = ahead - rate * _gradient(leader, ahead)
            step = ahead - model
            weight = float(np.clip((truth - model) @ step / (step @ step), 0.0, 1.0))
            bought = model + weight * step
            gains.append(float(((model - truth) ** 2).sum() - ((bought - truth) ** 2).sum()))
            model = bought
        rounds += 1
    return tuple(reached), gains


def _gradient(problem: Problem, model: Array) -> Array:
    inputs, targets = problem
    slope: Array = 2 / len(inputs) * inputs.T @ (inputs @ model - targets)
    return slope


def _smoothness(inputs: Array) -> float:
    return 2 * float(np.linalg.eigvalsh(inputs.T @ inputs / len(inputs))[-1])
