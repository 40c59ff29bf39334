"""Two agents that fit linear regressions, and a broker with data (paper, sections 4, 6.1.3)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fl_market.errors import MarketError
from fl_market.gains import certify
from fl_market.seeds import numpy_generator

Array = NDArray[np.float64]
AGENTS = ("A", "B")


@dataclass(frozen=True)
class Purchase:
    """The offer to a buyer in one round, and whether it buys.

    Attributes
    ----------
    weight
        Purchased weight: the minimiser of the broker's loss over the segment between the two
        models.
    gain
        Gain-from-trade as an error ratio (Eq. 3), from the certify split; 1 without a gain.
    bought
        Whether the gain is certified.
    """

    weight: float
    gain: float
    bought: bool


@dataclass(frozen=True)
class LinearRun:
    """The course of a run, agent A before agent B.

    Attributes
    ----------
    purchases
        For each round, the offers to A and to B.
    error_ratio
        For each round ``‖θ_a - θ_a*‖² / ‖θ_b - θ_b*‖²`` after local training; above 1, B leads.
    market_loss, siloed_loss
        Test losses after each round, shape (rounds, 2): of the agents that trade, and of their
        twins that do not.
    """

    purchases: tuple[tuple[Purchase, Purchase], ...]
    error_ratio: Array
    market_loss: Array
    siloed_loss: Array

    @property
    def improvement(self) -> Array:
        """Reduction of the final test losses of A and B from those of their twins, in per cent."""
        improvement: Array = 100 * (1 - self.market_loss[-1] / self.siloed_loss[-1])
        return improvement


@dataclass(frozen=True)
class LinearMarket:
    """The published setting; the step size and the scale of θ* are not published.

    Attributes
    ----------
    dimension
        Number of parameters of each regression.
    samples
        Training samples of A and of B.
    noise
        Variance of the noise on each agent's labels.
    broker_samples
        Samples of the broker, free of noise: half of them choose α, the others certify.
    test_samples
        Samples that only report.
    rounds
        Rounds of one gradient step and one possible purchase.
    learning_rate
        Step size of the gradient steps on the mean squared error.
    distance
        Distance of the true parameters of A and of B. The broker judges each buyer by the buyer's
        own.
    confidence
        Level of the certified gains.

    Raises
    ------
    MarketError
        If a value is out of its range.
    """

    dimension: int = 1000
    samples: tuple[int, int] = (500, 800)
    noise: tuple[float, float] = (0.0, 0.5)
    broker_samples: int = 10_000
    test_samples: int = 2_000
    rounds: int = 100
    learning_rate: float = 0.01
    distance: float = 0.0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        least = {"dimension": 1, "test_samples": 1, "rounds": 1, "broker_samples": 4, "distance": 0}
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise MarketError(f"{name} must be at least {bound}; got {getattr(self, name)}")
        for name, bound in {"samples": 1, "noise": 0}.items():
            if not min(getattr(self, name)) >= bound:
                raise MarketError(f"{name} must be at least {bound} for both agents; got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise MarketError(f"learning_rate must be above 0; got {self.learning_rate}")

    def run(self, seed: int = 0) -> LinearRun:
        """Let both agents, and their twins outside the market, train from zero on the same data.

        Parameters
        ----------
        seed
            Decides the data and the true parameters.
        """
        truth, data, (broker_inputs, broker_targets), (test_inputs, test_targets) = self._draw(seed)
        # columns: the agent in the market, and its twin
        models = [np.zeros((self.dimension, 2)) for _ in AGENTS]
        purchases, ratios, losses = [], [], []
        for _ in range(self.rounds):
            models = [self._train(model, *samples) for model, samples in zip(models, data, strict=True)]
            own = np.stack([model[:, 0] for model in models], axis=1)
            errors = ((own - truth) ** 2).sum(0)
            ratios.append(errors[0] / errors[1])
            predictions = broker_inputs @ own
            offers = tuple(
                self._try(predictions[:, buyer], predictions[:, 1 - buyer], broker_targets[:, buyer])
                for buyer in range(2)
            )
            for buyer, offer in enumerate(offers):
                if offer.bought:
                    models[buyer][:, 0] = (1 - offer.weight) * own[:, buyer] + offer.weight * own[:, 1 - buyer]
            purchases.append((offers[0], offers[1]))
            residuals = test_inputs @ np.hstack(models) - test_targets.repeat(2, axis=1)
            losses.append((residuals**2).mean(0))
        by_round = np.array(losses)
        return LinearRun(tuple(purchases), np.array(ratios), by_round[:, 0::2], by_round[:, 1::2])

    def _train(self, models: Array, inputs: Array, targets: Array) -> Array:
        """Return the models, one a column, after one gradient step on the same data."""
        slope = 2 / len(inputs) * inputs.T @ (inputs @ models - targets[:, None])
        trained: Array = models - self.learning_rate * slope
        return trained

    def _try(self, own: Array, other: Array, targets: Array) -> Purchase:
        """Return the offer to a buyer, from predictions and targets on the broker's samples."""
        half = len(own) // 2
        step = (other - own)[:half]
        length = float(step @ step)
        weight = float(np.clip((targets - own)[:half] @ step / length, 0.0, 1.0)) if length else 0.0
        before = (own - targets)[half:] ** 2
        after = ((1 - weight) * own + weight * other - targets)[half:] ** 2
        certificate = certify(torch.from_numpy(before), torch.from_numpy(after), confidence=self.confidence)
        return Purchase(weight, certificate.ratio, certificate.positive)

    def _draw(self, seed: int) -> tuple[Array, list[tuple[Array, Array]], tuple[Array, Array], tuple[Array, Array]]:
        """Return the true parameters (dimension, 2), and the data of agents, broker and test."""
        generator = numpy_generator(seed, "linear-market")
        first = generator.normal(size=self.dimension)
        direction = generator.normal(size=self.dimension)
        truth = np.stack([first, first + self.distance * direction / np.linalg.norm(direction)], axis=1)
        data = []
        for index, (count, variance) in enumerate(zip(self.samples, self.noise, strict=True)):
            inputs = generator.normal(size=(count, self.dimension))
            data.append((inputs, inputs @ truth[:, index] + np.sqrt(variance) * generator.normal(size=count)))
        broker, test = (generator.normal(size=(n, self.dimension)) for n in (self.broker_samples, self.test_samples))
        return truth, data, (broker, broker @ truth), (test, test @ truth)
