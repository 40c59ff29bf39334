"""The share of true gains that are certified, in markets of networks on MNIST.

The true gain of a trial is measured on images that neither the agents nor the broker use, over the
same alternatives as the certified one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any
from unittest import mock

from torch import nn

from clients.training import make_optimiser, train
from fl_market.benchmarks.image_parts import Parts, image_parts
from fl_market.data import Batch
from fl_market.gains import Certificate, Objective, Scores, SplitScores, certify_increment
from fl_market.market import trials
from fl_market.market.broker import Broker
from fl_market.market.round import TradingRound
from fl_market.market.terms import Terms
from fl_market.market.trials import Trial
from fl_market.naming import agent_name
from fl_market.parameters import StateDict
from fl_market.protocol import Ask
from fl_market.seeds import reproducible
from fl_market.tasks.mnist_mlp import build_mlp
from fl_market.valuation import decide, proportional_to_gain

LEARNING_RATE = 0.1
CRITERION = nn.CrossEntropyLoss(reduction="none")
NOTABLE = 0.02
"""Relative true gain above which a certificate is wanted."""
BINS = (-1.0, 0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0)
"""Edges of the bins of true gains."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Market:
    """A market whose trials are measured.

    Attributes
    ----------
    agents
        Number of agents, each with half of the classes scarce.
    rounds
        Number of rounds, of one epoch each.
    first_round
        First round of trading.
    """

    agents: int = 2
    rounds: int = 20
    first_round: int = 5


MARKETS = {
    "two agents": Market(),
    "three agents": Market(agents=3),
    "late meeters": Market(rounds=33, first_round=31),
}


@dataclass(frozen=True)
class Measured:
    """One trial, and its gains on unused images.

    Attributes
    ----------
    market, seed, round, buyer, seller
        The trial.
    gain, loss_gain
        True reduction of the calibrated Brier score and of the loss, relative to the best
        alternative.
    certified
        Whether its gain was certified.
    progress
        True progress, relative to the best model that is free of charge; None without a certified
        gain.
    priced
        Whether its progress was certified, so that it has a price.
    """

    market: str
    seed: int
    round: int
    buyer: str
    seller: str
    gain: float
    loss_gain: float
    certified: bool
    progress: float | None
    priced: bool


@dataclass(frozen=True)
class ScoresOnBoth(Scores):
    """Scores on the certify split, together with those on the unused images."""

    unused: Scores | None = None


@dataclass(frozen=True)
class ObjectiveOnBoth(Objective):
    """An objective whose scores have scores on unused images with them."""

    unused: Batch = ()

    def scores(self, state: StateDict) -> SplitScores:
        """Return a model's scores, with those on the unused images beside the certify split's."""
        known = super().scores(state)
        unused = Objective.scores(replace(self, certify=self.unused, unused=()), state).certify
        issued = known.certify
        return replace(known, certify=ScoresOnBoth(issued.loss, issued.brier, issued.error, issued.highest, unused))


class TrueGains:
    """The true gain of each certificate, measured while the market issues it.

    A second evaluation of all purchases on the unused images would take as long again. The
    certificates' function is therefore replaced, in the module of the trials, by one that also
    measures the gain on the unused images over the same alternatives.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[float, float], Certificate] = {}

    def of(self, certificate: Certificate) -> Certificate | None:
        """Return the certificate on the unused images; None if nothing was tried."""
        return self._known.get((certificate.gain, certificate.lower_bound))

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the certificates that are issued inside the block."""
        with mock.patch.object(trials, "certify_increment", self._certify):
            yield

    def _certify(self, alternatives: Mapping[str, Scores], merged: Scores, **options: Any) -> Certificate:
        issued = certify_increment(alternatives, merged, **options)
        if not isinstance(merged, ScoresOnBoth):  # on the fit split
            return issued
        unused = {name: _unused(scores) for name, scores in alternatives.items()}
        true = certify_increment(unused, _unused(merged), error=0.05, finite=False)
        self._known[issued.gain, issued.lower_bound] = true
        return issued


def _unused(scores: Scores) -> Scores:
    assert isinstance(scores, ScoresOnBoth) and scores.unused is not None
    return scores.unused


def measured_trials(
    data_dir: str, seeds: Sequence[int], report: Report, markets: Mapping[str, Market] = MARKETS
) -> list[Measured]:
    """Run markets, and return all their trials with the true gains.

    Parameters
    ----------
    data_dir
        Folder of MNIST; empty for the shipped sample.
    seeds
        Seeds of each market.
    report
        Called with a line for each market.
    markets
        Name -> market.
    """
    found: list[Measured] = []
    for seed in seeds:
        for name, market in markets.items():
            found += _trials_of(name, market, image_parts(data_dir, market.agents, seed), seed)
            report(f"power: {name}, seed {seed}: {len(found)} trials so far")
    return found


def summary(trials: Sequence[Measured]) -> dict[str, Any]:
    """Return how many trials have a notable true gain, and the share that is certified."""
    gained = [trial.certified for trial in trials if trial.gain > NOTABLE]
    lossy = [trial.certified for trial in trials if trial.loss_gain > NOTABLE]
    progressed = [trial.priced for trial in trials if trial.progress is not None and trial.progress > NOTABLE]
    parts = {"gain": gained, "gain by loss": lossy, "progress": progressed}
    return {
        name: {"trials": len(part), "certified": sum(part) / len(part) if part else None}
        for name, part in parts.items()
    } | {
        "certified without a true gain": sum(trial.certified and trial.gain <= 0 for trial in trials),
        "priced without true progress": sum(trial.priced and (trial.progress or 0.0) <= 0 for trial in trials),
    }


def document(trials: Sequence[Measured]) -> dict[str, Any]:
    """Return the trials and their summary for each market and for all, as JSON."""
    names = list(dict.fromkeys(trial.market for trial in trials))
    return {
        "all": summary(trials),
        "markets": {name: summary([trial for trial in trials if trial.market == name]) for name in names},
        "trials": [asdict(trial) for trial in trials],
    }


def _trials_of(name: str, market: Market, parts: Parts, seed: int) -> Iterator[Measured]:
    agents = dict(zip(map(agent_name, range(market.agents)), parts.agents, strict=True))
    models: dict[str, StateDict] = {agent: _initial(seed, agent).state_dict() for agent in agents}
    broker = Broker(build_mlp(), CRITERION, parts.fit, parts.certify, terms=Terms(), seed=seed)
    _measure_on(broker, parts.unused)
    for agent in agents:
        broker.seat(agent)
    for number in range(1, market.rounds + 1):
        models = {agent: trained(models[agent], data, parts, seed, agent, number) for agent, data in agents.items()}
        if number < market.first_round:
            continue
        true = TrueGains()
        with true.recorded():
            trading = broker.open_round(models, number)
        yield from _measured(name, seed, number, trading.trials, true)
        play(broker, trading)
        models = dict(broker.state.models)


def _measure_on(broker: Broker, unused: Batch) -> None:
    # the broker's option for objectives is the agents' profile, which has no unused images
    buyers = broker._buyers
    common = buyers.common.objective
    both = ObjectiveOnBoth(common.loss, common.fit, common.certify, common.classifier, unused=unused)
    buyers.common = replace(buyers.common, objective=both)


def _measured(name: str, seed: int, number: int, tried: Sequence[Trial], true: TrueGains) -> Iterator[Measured]:
    for trial in tried:
        gain = true.of(trial.certificate)
        progress = None if trial.progress is None else true.of(trial.progress)
        if gain is not None:
            yield Measured(
                market=name,
                seed=seed,
                round=number,
                buyer=trial.buyer,
                seller=trial.seller,
                gain=gain.gain,
                loss_gain=(gain.loss_before - gain.loss_after) / gain.loss_before,
                certified=trial.certificate.positive,
                progress=None if progress is None else progress.gain,
                priced=trial.priced,
            )


def play(broker: Broker, trading: TradingRound) -> None:
    """Let every buyer accept the best of its offers, and conclude the round."""
    bidding = trading.accept_bids(
        {buyer: decide(some, proportional_to_gain(10.0)) for buyer, some in trading.offers.items()}
    )
    asks = {seller: [Ask(request.id, 0) for request in some] for seller, some in bidding.requests.items()}
    bargain = bidding.accept_asks(asks)
    deliveries = bargain.deliver()
    broker.conclude(bargain.conclude({agent: delivery.acknowledge() for agent, delivery in deliveries.items()}))


def _initial(seed: int, *purpose: str) -> nn.Module:
    with reproducible(seed, "initial-weights", *purpose):
        return build_mlp()


def trained(
    state: StateDict,
    data: Batch,
    parts: Parts,
    seed: int,
    *purpose: str | int,
    epochs: int = 1,
    learning_rate: float = LEARNING_RATE,
) -> StateDict:
    """Return parameters after local training by SGD.

    Parameters
    ----------
    state
        Parameters before.
    data
        Inputs and targets.
    parts
        Say the batch size.
    seed, purpose
        Name the random stream of the order of the samples.
    epochs, learning_rate
        Of the training.
    """
    model = build_mlp()
    model.load_state_dict(dict(state))
    optimiser = make_optimiser(model, "sgd", learning_rate, 0.0)
    train(model, optimiser, CRITERION, data, epochs=epochs, batch_size=parts.batch_size, seed=seed, purpose=purpose)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
