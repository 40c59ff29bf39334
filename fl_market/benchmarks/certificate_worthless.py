"""The share of worthless sellers with a certificate, offered to networks on MNIST.

The buyers are trained to different degrees. Each certificate alone may spend 5 %, far more than one
of a run may; those that pass are repeated at the level of a run. A worthless seller knows nothing
about the task that the buyer does not know itself. The buyer's own older model is one of them,
although an average with it is often a true gain.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from fl_market.benchmarks.certificate_power import CRITERION, Report, trained
from fl_market.benchmarks.image_parts import Parts, image_parts
from fl_market.data import Batch
from fl_market.gains import ErrorBudget
from fl_market.market.alignment import Aligner
from fl_market.market.buyers import Buyer, Buyers
from fl_market.market.incumbents import incumbent_of
from fl_market.market.placebos import placebos
from fl_market.market.spending import error_of_tests
from fl_market.market.terms import Terms
from fl_market.market.trials import Trial, evaluate_purchase
from fl_market.merging import layers_of
from fl_market.parameters import StateDict
from fl_market.permutation import derive_spec
from fl_market.seeds import reproducible
from fl_market.tasks.mnist_mlp import build_mlp

ERROR, GRANULARITIES, DRAWS = 0.05, ("model", "row"), 2
BATCH_SIZE, FIRST_ROUND = 32, 5
BUYER, SELLER = "A", "B"
COUNTS = ("certified", "certified in a run", "priced")


@dataclass(frozen=True)
class Degree:
    """A degree of training: samples of a part, epochs, and the learning rate."""

    samples: int
    epochs: int
    learning_rate: float


DEGREES = {
    "overconfident": Degree(6000, 30, 0.05),
    "calibrated": Degree(15_000, 4, 0.05),
    "early": Degree(3000, 2, 0.05),
}


@dataclass(frozen=True)
class Tested:
    """A worthless seller that was tried.

    Attributes
    ----------
    kind, granularity, degree, seed, draw
        Seller, purchase and buyer.
    certified
        Whether a gain was certified, with an error of 5 %.
    in_run
        Whether it was certified as in the first trading round of a market of two agents.
    priced
        Whether progress was certified too, with an error of 5 %, so that the purchase has a price.
    gain
        Measured gain.
    """

    kind: str
    granularity: str
    degree: str
    seed: int
    draw: int
    certified: bool
    in_run: bool
    priced: bool
    gain: float


@dataclass(frozen=True)
class Known:
    """All that a worthless seller is made of.

    Attributes
    ----------
    buyer
        The architecture and objective of the buyer.
    history
        Parameters of the buyer after each epoch, from the initial ones on.
    data, parts
        Training data of the buyer, and the parts of the market.
    seed, draw
        Seed of the buyer, and number of the seller.
    """

    buyer: Buyer
    history: Sequence[StateDict]
    data: Batch
    parts: Parts
    seed: int
    draw: int

    @property
    def own(self) -> StateDict:
        """Parameters of the buyer."""
        return self.history[-1]


def _placebo(name: str) -> Callable[[Known], StateDict]:
    return lambda known: dict(placebos(known.buyer.model, known.own))[name]


def _noisy_copy(known: Known) -> StateDict:
    scale = (0.02, 0.2)[known.draw % 2]
    noise = dict(placebos(known.buyer.model, known.own))["noise"]
    return {name: tensor + scale * noise[name] for name, tensor in known.own.items()}


def _older_model(known: Known) -> StateDict:
    return known.history[max(0, len(known.history) - 2 - known.draw)]


def _constant(known: Known) -> StateDict:
    zeros = dict(placebos(known.buyer.model, known.own))["zeros"]
    last = list(zeros)[-1]
    bias = zeros[last].clone()
    bias[torch.randint(len(bias), ())] = 5.0
    return {**zeros, last: bias}


def _random_labels(known: Known) -> StateDict:
    inputs, targets = known.data
    data = inputs, targets[torch.randperm(len(targets))]
    return trained(known.history[0], data, known.parts, known.seed, "random-labels", known.draw, epochs=5)


KINDS: dict[str, Callable[[Known], StateDict]] = {
    "zeros": _placebo("zeros"),
    "untrained": _placebo("untrained"),
    "noise": _placebo("noise"),
    "noisy copy of the buyer": _noisy_copy,
    "older model of the buyer": _older_model,
    "constant": _constant,
    "random labels": _random_labels,
}


def tested_sellers(
    data_dir: str, seeds: Sequence[int], report: Report, *, degrees: Sequence[str] = tuple(DEGREES), draws: int = DRAWS
) -> list[Tested]:
    """Offer worthless sellers to buyers, and return the trials.

    Parameters
    ----------
    data_dir
        Folder of MNIST; empty for the shipped sample.
    seeds
        Seeds of the buyers of each degree of training.
    report
        Called with a line for each buyer.
    degrees
        Degrees of training, of ``DEGREES``.
    draws
        Number of sellers of each kind for each buyer.
    """
    found: list[Tested] = []
    for seed in seeds:
        parts = replace(image_parts(data_dir, 2, seed), batch_size=BATCH_SIZE)
        for degree in degrees:
            found += _tested(degree, seed, parts, draws)
            report(f"worthless: {degree} buyer, seed {seed}: {len(found)} trials so far")
    return found


def document(tested: Sequence[Tested]) -> dict[str, Any]:
    """Return the trials, and the counts for each kind and granularity, as JSON."""
    counts = {
        kind: {granularity: counted(tested, kind, granularity) for granularity in GRANULARITIES} for kind in KINDS
    }
    return {"kinds": counts, "trials": [asdict(one) for one in tested]}


def counted(tested: Sequence[Tested], kind: str, granularity: str) -> dict[str, int]:
    """Return the number of trials of a kind, and how many are certified and priced."""
    some = [one for one in tested if (one.kind, one.granularity) == (kind, granularity)]
    return {
        "trials": len(some),
        "certified": sum(one.certified for one in some),
        "certified in a run": sum(one.in_run for one in some),
        "priced": sum(one.priced for one in some),
    }


def _tested(degree: str, seed: int, parts: Parts, draws: int) -> Iterator[Tested]:
    wanted = DEGREES[degree]
    inputs, targets = parts.agents[seed % 2]
    with reproducible(seed, "worthless-buyer", degree):
        chosen = torch.randperm(len(targets))[: wanted.samples]
        model = build_mlp()
    data, rate = (inputs[chosen], targets[chosen]), wanted.learning_rate
    history: list[StateDict] = [model.state_dict()]
    for epoch in range(wanted.epochs):
        history.append(trained(history[-1], data, parts, seed, degree, epoch, learning_rate=rate))
    buyers = Buyers(lambda _: build_mlp(), CRITERION, parts.fit, parts.certify, repaired=True, seed=seed)
    sellers = {
        (kind, draw): _made(kind, Known(buyers.common, history, data, parts, seed, draw))
        for kind in KINDS
        for draw in range(draws)
    }
    for granularity in GRANULARITIES:
        yield from _tried(history[-1], sellers, buyers, granularity, degree, seed)


def _made(kind: str, known: Known) -> StateDict:
    with reproducible(known.seed, "worthless", kind, known.draw):
        return KINDS[kind](known)


def _tried(
    own: StateDict,
    sellers: dict[tuple[str, int], StateDict],
    buyers: Buyers,
    granularity: str,
    degree: str,
    seed: int,
) -> Iterator[Tested]:
    terms, buyer, layers = Terms(granularity=granularity), buyers.common, layers_of(own)
    aligner = Aligner(derive_spec(buyer.model, buyer.objective.fit[0][:2]), buyers, terms.alignment_method, seed)

    def aligned(seller: StateDict) -> StateDict:
        return aligner.align((buyer, own), (buyer, seller)).to_first(seller)

    with reproducible(seed, "worthless-trials"):
        incumbent = incumbent_of(buyer, own, terms, aligned=aligned, for_sale=layers, seed=seed)
        for (kind, draw), seller in sellers.items():
            offered = aligned(seller)

            def tried(error: float, offered: StateDict = offered) -> Trial:
                return evaluate_purchase((BUYER, SELLER), incumbent, offered, layers, terms, error)

            trial = tried(ERROR)
            certified = trial.certificate.positive
            in_run = certified and tried(_error_in_run(terms)).certificate.positive
            yield Tested(kind, granularity, degree, seed, draw, certified, in_run, trial.priced, trial.certificate.gain)


def _error_in_run(terms: Terms) -> float:
    return error_of_tests(ErrorBudget(ERROR), FIRST_ROUND, 2, terms)
