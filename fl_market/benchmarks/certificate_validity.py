"""The share of runs with a false certificate, in markets that are simulated on scores.

No network is trained: each trial is a vector of score differences, one for each sample of the
certify split, which all rounds share. The certificates, the error budget, the offers, the payments
and the state between two rounds are those of the market. A certificate is false if its true gain is
at most 0, and so is a payment for a true progress of at most 0. The purchases that count have a
true gain of 0, the null hypothesis that is hardest to keep.

Sellers see the offers, as if each buyer showed them its own. Probers are the worst case. They offer
a true gain round after round, and each offer tells them the direction of one more random change on
the certify split. In the last round they sell the sum of the changes. Some buyers of probers never
pay and others do, as an accomplice would. Colluding probers add up the changes of all.
"""

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray

from fl_market.gains import Certificate, ErrorBudget, Scores, certify_increment, mean_exceeds
from fl_market.gains.certificate import OWN
from fl_market.ledger import Ledger
from fl_market.market.round import TradingRound
from fl_market.market.settlement import apply
from fl_market.market.spending import error_of_tests
from fl_market.market.state import MarketState
from fl_market.market.terms import Terms
from fl_market.market.trials import Trial
from fl_market.naming import agent_name
from fl_market.pricing.money import micro_credits
from fl_market.protocol import Ask, Bid, Offer
from fl_market.seeds import numpy_generator

AGENTS, ROUNDS, SAMPLES, ERROR = 3, 30, 2500, 0.05
STEP, CHANGED = 0.4, 0.1
"""Size of a difference, and share of the samples that differ, as with nearly equal classifiers."""
LEVEL = 0.5
"""Score of each sample without a purchase."""
PROBES = ROUNDS - 1
"""Number of probes before a prober sells the sum of its changes."""
SCOPES = ("trial", "run")
PRICING, BID = "posted(0.000001)", 1000
NO_CERTIFICATE = Certificate(0.0, -1.0, 1 - ERROR, LEVEL, LEVEL, SAMPLES)

Differences = NDArray[np.float64]


@dataclass(frozen=True)
class Proposal:
    """A possible purchase.

    Attributes
    ----------
    differences
        Score without the purchase less score with it, one for each sample, in [-0.5, 0.5].
    gain
        Their expectation; at most 0 makes a certificate false.
    progress
        Differences after the broker's service and from the best model; None for the same ones.
    progress_gain
        Their expectation; at most 0 makes a payment false.
    """

    differences: Differences
    gain: float = 0.0
    progress: Differences | None = None
    progress_gain: float = 0.0


Seller = Generator[Proposal, Offer | None, None]
"""Yields a proposal in each round; receives the offer to the buyer, if there is one."""


def independent(dice: np.random.Generator) -> Seller:
    """Yield a new proposal in each round."""
    while True:
        yield Proposal(_change(dice))


def rare_harm(dice: np.random.Generator) -> Seller:
    """Yield new proposals that gain a little on most samples, and lose as much on a few."""
    lost = 1 / 101
    while True:
        yield Proposal(np.where(dice.random(SAMPLES) < lost, -LEVEL, LEVEL / 100))


def stubborn(dice: np.random.Generator) -> Seller:
    """Yield one proposal again and again, with small changes."""
    kept = _change(dice)
    while True:
        yield Proposal(0.9 * kept + 0.1 * _change(dice))


def without_progress(dice: np.random.Generator) -> Seller:
    """Yield true gains that the buyer could have free of charge."""
    while True:
        yield Proposal(0.05 + _change(dice), 0.05, _change(dice), 0.0)


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
        if bought is None:
            proposal = Proposal(np.clip(gain + changed, -LEVEL, LEVEL), gain, progress_gain=gain)
        else:
            proposal = Proposal(np.clip(changed - bought, -LEVEL, LEVEL))
        offer = yield proposal
        if offer is not None and offer.gain >= best:
            kept, best, bought = changed, offer.gain, changed


def success_prober(dice: np.random.Generator, found: Differences | None = None) -> Seller:
    """Probe changes by the offers of a true gain that is certified every second time.

    The sum of the changes is common to sellers that collude.
    """
    found = np.zeros(SAMPLES) if found is None else found
    gain = 5 * _spread()
    for number in range(PROBES):
        change = _change(dice)
        offer = yield _true(gain, change)
        found += change if offer is not None else -change
        gain += (-0.9 if offer is not None else 0.9) * _spread() / (1 + number / 8)
    while True:
        yield Proposal(_scaled(found))


def gain_prober(dice: np.random.Generator) -> Seller:
    """Probe changes by the told gain of a true gain that is about to be rounded up."""
    found, edge = np.zeros(SAMPLES), 0.5
    for _ in range(PROBES):
        change = _change(dice) / 2
        offer = yield _true(LEVEL * edge, change)
        if offer is not None:
            found += change if offer.gain >= edge else -change
    while True:
        yield Proposal(_scaled(found))


@dataclass(frozen=True)
class Kind:
    """A kind of sellers, and their buyers.

    Attributes
    ----------
    make
        Makes one seller; sellers that collude also get the common sum of their changes.
    buys
        Whether buyers pay for the best of their offers. None takes a purchase on approval, for that
        would show no more than the offer.
    collude
        Whether all sellers of a run collude.
    """

    make: Callable[..., Seller]
    buys: bool = True
    collude: bool = False


SELLERS: dict[str, Kind] = {
    "independent": Kind(independent),
    "rare harm": Kind(rare_harm),
    "stubborn": Kind(stubborn),
    "without progress": Kind(without_progress),
    "imitator": Kind(imitator),
    "climber": Kind(climber),
    "prober of offers": Kind(success_prober, buys=False),
    "prober of gains": Kind(gain_prober, buys=False),
    "colluding probers": Kind(success_prober, buys=False, collude=True),
    "paying probers": Kind(success_prober, collude=True),
}
"""The kinds of sellers by name."""


def false_by_round(kind: str, scope: str, runs: int, seed: int, terms: Terms | None = None) -> list[int]:
    """Return for each round the number of runs with a false certificate or payment until then.

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
    terms
        Terms of the market, by default the default ones; the scope and the price are set here.
    """
    terms = replace(terms or Terms(), certificate=scope, confidence=1 - ERROR, pricing=PRICING)
    with Ledger.open() as ledger:
        for agent in map(agent_name, range(AGENTS)):
            ledger.open_account(agent, micro_credits(terms.endowment))
        first = [
            Simulation(SELLERS[kind], terms, ledger, number).first_false(
                numpy_generator(seed, "certificates", kind, number)
            )
            for number in range(runs)
        ]
    return [sum(found is not None and found <= number for found in first) for number in range(1, ROUNDS + 1)]


@dataclass(frozen=True)
class Simulation:
    """One simulated run.

    Attributes
    ----------
    kind
        Kind of all sellers.
    terms, ledger
        Terms and accounts of the market.
    number
        Number of the run.
    """

    kind: Kind
    terms: Terms
    ledger: Ledger
    number: int = 0

    def first_false(self, dice: np.random.Generator) -> int | None:
        """Return the round of the first false certificate or payment, or None if there is none."""
        agents = tuple(map(agent_name, range(AGENTS)))
        common = {"found": np.zeros(SAMPLES)} if self.kind.collude else {}
        sellers = {pair: self.kind.make(dice, **common) for pair in permutations(agents, 2)}
        proposals = {pair: next(seller) for pair, seller in sellers.items()}
        state = MarketState(budget=ErrorBudget(1 - self.terms.confidence)).with_pseudonyms(agents)
        for number in range(1, ROUNDS + 1):
            error = error_of_tests(state.budget, number, len(agents), self.terms)
            trials = {pair: trial_of(pair, proposal, error, self.terms) for pair, proposal in proposals.items()}
            if any(trial.certificate.positive and proposals[pair].gain <= 0 for pair, trial in trials.items()):
                return number
            offers, paid, state = self._traded(number, trials, state, agents)
            if any(proposals[pair].progress_gain <= 0 for pair in paid):
                return number
            proposals = {pair: seller.send(offers.get(pair)) for pair, seller in sellers.items()}
        return None

    def _traded(
        self, number: int, trials: Mapping[tuple[str, str], Trial], state: MarketState, agents: tuple[str, ...]
    ) -> tuple[dict[tuple[str, str], Offer], list[tuple[str, str]], MarketState]:
        """Return the offers of a round, the pairs with a payment, and the state after the round."""
        run = f"run-{self.number}"
        trading = TradingRound(number, run, self.terms, self.ledger, state, agents, list(trials.values()))
        found = trading.offers
        sellers = {name: agent for agent, name in state.pseudonyms.items()}
        offers = {(buyer, sellers[offer.seller]): offer for buyer, some in found.items() for offer in some}
        priced = {buyer: [offer for offer in some if offer.gain > 0] for buyer, some in found.items()}
        best = {buyer: max(some, key=lambda offer: offer.gain) for buyer, some in priced.items() if some}
        bids = {buyer: [Bid(offer.id, BID)] for buyer, offer in best.items()} if self.kind.buys else {}
        bidding = trading.accept_bids(bids)
        asks = {seller: [Ask(request.id, 0) for request in some] for seller, some in bidding.requests.items()}
        bargain = bidding.accept_asks(asks)
        outcome = bargain.conclude({buyer: delivery.acknowledge() for buyer, delivery in bargain.deliver().items()})
        apply(self.ledger, outcome)
        return offers, [(deal.buyer, deal.seller) for deal in bargain.agreed if deal.price], outcome.state


def trial_of(pair: tuple[str, str], proposal: Proposal, error: float, terms: Terms) -> Trial:
    """Return the trial of a proposal, with the certificates of the market."""
    finite = terms.certificate == "run"
    if finite and not mean_exceeds(proposal.differences, -1.0, 1.0, 0.0, error):
        # the same decision in an eighth of the time
        return Trial(*pair, "", 0.5, NO_CERTIFICATE, {}, foreseen=_foreseen(proposal))
    certificate = _certificate(proposal.differences, error, finite)
    trial = Trial(*pair, "all", 0.5, certificate, {"weight": torch.zeros(1)}, foreseen=_foreseen(proposal))
    if not certificate.positive:
        return trial
    if proposal.progress is None:
        return replace(trial, progress=certificate)
    if finite and not mean_exceeds(proposal.progress, -1.0, 1.0, 0.0, error):
        return replace(trial, progress=NO_CERTIFICATE)
    return replace(trial, progress=_certificate(proposal.progress, error, finite))


def _foreseen(proposal: Proposal) -> Certificate | None:
    """Return what a fit split without errors would foresee, which tells agents most cheaply."""
    share = proposal.progress_gain / LEVEL
    return replace(NO_CERTIFICATE, gain=share, lower_bound=share) if share > 0 else None


def _certificate(differences: Differences, error: float, finite: bool) -> Certificate:
    before, after = (_scores(scores) for scores in (np.full(SAMPLES, LEVEL), LEVEL - differences))
    return certify_increment({OWN: before}, after, error=error, finite=finite)


def _scores(brier: NDArray[np.float64]) -> Scores:
    known = torch.from_numpy(brier)
    return Scores(known, known, known)


def _true(gain: float, change: Differences) -> Proposal:
    """Return a proposal of a true gain and progress, changed by differences of mean 0."""
    return Proposal(gain + change, gain, progress_gain=gain)


def _spread() -> float:
    """Return the standard deviation of the mean of one change."""
    return STEP * math.sqrt(CHANGED / SAMPLES)


def _change(dice: np.random.Generator) -> Differences:
    """Return differences whose expectation is 0."""
    draws = dice.random(SAMPLES)
    found: Differences = STEP * ((draws < CHANGED / 2).astype(float) - (draws > 1 - CHANGED / 2))
    return found


def _scaled(differences: Differences) -> Differences:
    """Return symmetric differences as small as those of one change."""
    deviation = float(differences.std())
    wanted = STEP * math.sqrt(CHANGED)
    found: Differences = np.clip(differences * (wanted / deviation if deviation else 1.0), -LEVEL, LEVEL)
    return found
