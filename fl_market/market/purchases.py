"""All purchases of one round: every pair of agents, then incremental purchases."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from fl_market.errors import MarketError
from fl_market.hardware import Hardware
from fl_market.market.alignment import Aligner, Alignment
from fl_market.market.buyers import Buyer, Buyers
from fl_market.market.candidates import SAMPLES, Fruitless, after_trials, candidates, view_of
from fl_market.market.executors import Executor, serial
from fl_market.market.incumbents import Incumbent, incumbent_of
from fl_market.market.novelty import Listing, possible_copies
from fl_market.market.spending import error_of_tests
from fl_market.market.state import MarketState
from fl_market.market.terms import Terms
from fl_market.market.trials import Trial, evaluate_purchase
from fl_market.market.triggers import hides_trigger, smallest_triggers
from fl_market.memory import give_back
from fl_market.merging import layers_of
from fl_market.model_files import Keep, in_memory
from fl_market.parameters import StateDict
from fl_market.permutation import Permutation
from fl_market.seeds import reproducible
from fl_market.timing import timed
from fl_market.watching import announce

LARGE = 2**20
"""Parameters of a model from which on its memory is given back after each trial."""

Pair = tuple[str, str]
"""Buyer and seller, or two agents in the order of their names."""


@dataclass(frozen=True)
class Evaluation:
    """The trials of one round.

    Attributes
    ----------
    trials
        One for each buyer and candidate, in the order of names, certified or not; incremental
        purchases follow, buyer by buyer.
    resellers
        Agents that offer a copy of a known model: they have nothing to sell.
    suspects
        Agents whose models hide a trigger: nobody may buy them.
    permutations
        Pair of agents -> its permutation, from which the next search starts.
    fruitless
        Trials without a gain in a row, after those of the round.
    served
        Agent -> its model after the broker's free service, if that gains on held-out samples.
    restored
        Agent -> its best certified model, if its own is certified to be worse.
    """

    trials: Sequence[Trial] = ()
    resellers: frozenset[str] = frozenset()
    suspects: frozenset[str] = frozenset()
    permutations: Mapping[Pair, Permutation] = field(default_factory=dict)
    fruitless: Fruitless = field(default_factory=dict)
    served: Mapping[str, StateDict] = field(default_factory=dict)
    restored: Mapping[str, StateDict] = field(default_factory=dict)


@dataclass(frozen=True)
class OfBuyer:
    """What the broker found for one buyer in a round.

    Attributes
    ----------
    trials
        Its single purchases in the order of sellers, then the incremental ones.
    permutations
        Of the pairs that were aligned.
    served, restored
        As in :class:`Evaluation`.
    """

    trials: Sequence[Trial]
    permutations: Mapping[Pair, Permutation]
    served: StateDict | None
    restored: StateDict | None


class Evaluator:
    """Evaluates all purchases among some agents.

    Parameters
    ----------
    buyers
        The agents' architectures and objectives.
    aligner
        Aligns pairs of agents.
    terms
        Terms of the market.
    for_sale
        Layers that purchases may comprise.
    hardware
        Device and precision of evaluations.
    seed
        Seed of the trials.
    execute
        Where they run.
    keep
        Puts models where they stay until they are delivered.
    """

    def __init__(
        self,
        buyers: Buyers,
        aligner: Aligner,
        terms: Terms,
        for_sale: frozenset[str],
        hardware: Hardware,
        seed: int,
        execute: Executor = serial,
        keep: Keep = in_memory,
    ) -> None:
        self._buyers, self._aligner, self._terms = buyers, aligner, terms
        self._for_sale, self._hardware, self._seed = for_sale, hardware, seed
        self._execute, self._keep = execute, keep
        self._listed: dict[int, Listing] = {}
        self._large = sum(tensor.numel() for tensor in buyers.common.template.values()) > LARGE

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker elsewhere needs: neither listings nor an executor."""
        return {**vars(self), "_listed": {}, "_execute": serial}

    def evaluate(self, state: MarketState, models: Mapping[str, StateDict], market_round: int) -> Evaluation:
        """Try the purchases among some agents, on their models before any trade of the round.

        Parameters
        ----------
        state
            State of the market before the round.
        models
            Agent -> its parameters after local training.
        market_round
            Number of the round, which decides its share of the error budget.
        """
        agents = sorted(models)
        with reproducible(self._seed, "try-before-purchase"):
            resellers = self._resellers(state, models)
            suspects = self._suspects({agent: (self._buyer(state, agent), models[agent]) for agent in agents})
            tried = self._tried(state, models, resellers | suspects, market_round)
        error = error_of_tests(state.budget, market_round, len(agents), self._terms)
        alignments: dict[Pair, Alignment] = {}  # one for both directions, where one process tries both
        with timed("trials"):
            found = []
            for one in self._execute(partial(self._of_buyer, state, models, tried, error, alignments), agents):
                found.append(one)
                announce(len(found), len(agents))
        gains = {(trial.buyer, trial.seller): trial.promise for one in found for trial in one.trials if not trial.after}
        return Evaluation(
            trials=[trial for one in found for trial in one.trials if not trial.after]
            + [trial for one in found for trial in one.trials if trial.after],
            resellers=resellers,
            suspects=suspects,
            permutations={
                **state.permutations,
                **{pair: order for one in found for pair, order in one.permutations.items()},
            },
            fruitless=after_trials(state.fruitless, gains, market_round),
            served={agent: one.served for agent, one in zip(agents, found, strict=True) if one.served is not None},
            restored={
                agent: one.restored for agent, one in zip(agents, found, strict=True) if one.restored is not None
            },
        )

    def _of_buyer(
        self,
        state: MarketState,
        models: Mapping[str, StateDict],
        tried: Collection[Pair],
        error: float,
        alignments: dict[Pair, Alignment],
        agent: str,
    ) -> OfBuyer:
        """Return what the broker finds for one buyer, which depends on no other buyer."""
        with reproducible(self._seed, "try-before-purchase", agent):
            buyer, best = self._buyer(state, agent), self._placed(state.best.get(agent))
            incumbent = self._incumbent(buyer, self._hardware.place_state(models[agent]), best)
            aligned: dict[str, StateDict] = {}  # only incremental purchases need them again
            trials: list[Trial] = []
            permutations: dict[Pair, Permutation] = {}
            for seller in sorted(seller for one, seller in tried if one == agent):
                pair = min(agent, seller), max(agent, seller)
                if pair not in alignments:
                    alignments[pair] = self._alignment(state, models, pair)
                found = alignments[pair]
                permutations[pair] = found.permutation
                in_order = found.to_first if agent == pair[0] else found.to_second
                offered = in_order(self._hardware.place_state(models[seller]))
                trial = self._evaluate((agent, seller), incumbent, offered, self._buyer(state, seller), error)
                trials.append(self._kept_trial(trial))
                if self._large:
                    give_back()
                if self._terms.max_purchases > 1 and trial.promise > 0:
                    aligned[seller] = self._kept(offered)
            trials += self._incremental(
                trials, aligned, buyer, {s: self._buyer(state, s) for s in aligned}, best, error
            )
            return OfBuyer(
                trials,
                permutations,
                None if incumbent.service is None else self._kept(incumbent.service),
                None if incumbent.restored is None else self._kept(incumbent.restored),
            )

    def _alignment(self, state: MarketState, models: Mapping[str, StateDict], pair: Pair) -> Alignment:
        one, other = ((self._buyer(state, agent), models[agent]) for agent in pair)
        with reproducible(self._seed, "alignment", *pair):
            return self._aligner.align(one, other, state.permutations.get(pair))

    def _buyer(self, state: MarketState, agent: str) -> Buyer:
        return self._buyers.of(state.profiles.get(agent))

    @timed("candidates")
    def _tried(
        self, state: MarketState, models: Mapping[str, StateDict], without: frozenset[str], market_round: int
    ) -> set[Pair]:
        """Return the buyers and sellers of the purchases to try."""
        sellers = models.keys() - without
        if not 0 < self._terms.candidates < len(models) - 1:
            return {(buyer, seller) for buyer in models for seller in sellers if buyer != seller}
        views = {agent: view_of(model, self._buyer(state, agent), self._buyers) for agent, model in models.items()}
        targets = self._buyers.common.objective.fit[1][:SAMPLES].cpu()
        found = candidates(views, sellers, targets, self._terms.candidates, state.fruitless, market_round)
        pairs = {(buyer, seller) for buyer, some in found.items() for seller in some}
        if self._terms.disclosure == "sealed":
            return pairs
        # a disclosed quote tells what the seller would gain from the buyer
        return pairs | {(seller, buyer) for buyer, seller in pairs if buyer in sellers}

    def _incumbent(self, buyer: Buyer, model: StateDict, best: StateDict | None) -> Incumbent:
        def aligned(placebo: StateDict) -> StateDict:
            return self._aligner.align((buyer, model), (buyer, placebo)).to_first(placebo)

        for_sale = tuple(layer for layer in layers_of(model) if layer in self._for_sale)
        return incumbent_of(buyer, model, self._terms, aligned=aligned, for_sale=for_sale, best=best, seed=self._seed)

    def _evaluate(
        self, pair: Pair, incumbent: Incumbent, aligned: StateDict, seller: Buyer, error: float, place: int = 1
    ) -> Trial:
        layers = self._buyers.shared_layers(incumbent.buyer, seller)
        for_sale = [layer for layer in layers if layer in self._for_sale]
        return evaluate_purchase(pair, incumbent, aligned, for_sale, self._terms, error, share=1 / (1 + place))

    def _incremental(
        self,
        trials: Sequence[Trial],
        aligned: Mapping[str, StateDict],
        buyer: Buyer,
        sellers: Mapping[str, Buyer],
        best: StateDict | None,
        error: float,
    ) -> list[Trial]:
        """Return a buyer's incremental purchases after its best one.

        Its promising offers are tried once each, in the order of their lower bounds on the fit
        split; each must gain there over the bundle before it. The certify split decides nothing.
        """
        ranked = sorted(
            (trial for trial in trials if trial.promise > 0),
            key=lambda trial: (trial.promise, trial.seller),
            reverse=True,
        )
        added: list[Trial] = []
        bundle = ranked[:1]
        for trial in ranked[1:]:
            if len(bundle) == self._terms.max_purchases:
                break
            pair = trial.buyer, trial.seller
            incumbent = self._incumbent(buyer, self._hardware.place_state(bundle[-1].merged), best)
            offered, seller = self._hardware.place_state(aligned[trial.seller]), sellers[trial.seller]
            more = self._evaluate(pair, incumbent, offered, seller, error, len(bundle) + 1)
            if more.promise > 0:
                bundle.append(self._kept_trial(replace(more, after=bundle[-1].sellers)))
                added.append(bundle[-1])
        return added

    def _placed(self, model: StateDict | None) -> StateDict | None:
        return None if model is None else self._hardware.place_state(model)

    def _kept_trial(self, trial: Trial) -> Trial:
        """Return a trial with its merged model where models stay; without it if it is no offer."""
        return replace(trial, merged=self._kept(trial.merged) if trial.priced or trial.on_approval else {})

    def _kept(self, model: StateDict) -> StateDict:
        return self._keep({name: tensor.cpu() for name, tensor in model.items()})

    @timed("search for resale")
    def _resellers(self, state: MarketState, models: Mapping[str, StateDict]) -> frozenset[str]:
        """Return the agents that offer a copy: see :mod:`fl_market.market.novelty`.

        Each offer is compared with all deliveries, with what others sold, and with the offers of
        the agents before it.
        """
        delivered = [(agent, model) for agent, some in state.delivered.items() for model in some]
        sold = [(agent, model) for agent, some in state.sold.items() for model in some]
        offered = [(agent, models[agent]) for agent in sorted(models)]
        before, self._listed = self._listed, {}
        known = [self._listing(state, *one, before) for one in (*delivered, *sold, *offered)]
        offers = known[len(known) - len(offered) :]
        near = possible_copies([listing for _, listing in offers], [listing for _, listing in known], *self._limits)
        sellers = {len(delivered) + place: agent for place, (agent, _) in enumerate(sold)}
        found = set()
        for own_place, (agent, _) in enumerate(offered, start=len(delivered) + len(sold)):
            buyer, own = known[own_place]
            for place in near[own_place - len(known) + len(offered)]:
                if place >= own_place or sellers.get(place) == agent:
                    continue
                other, listing = known[place]
                spec, _ = self._aligner.in_common(buyer, other)
                if own.copies(listing, spec, *self._limits):
                    found.add(agent)
                    break
        return frozenset(found)

    @property
    def _limits(self) -> tuple[float, float]:
        return self._terms.novelty, self._terms.resemblance

    def _listing(
        self, state: MarketState, agent: str, model: StateDict, before: Mapping[int, Listing]
    ) -> tuple[Buyer, Listing]:
        """Return an agent as a buyer, and a model's listing; those of the last round are kept."""
        buyer = self._buyer(state, agent)
        known = self._listed.get(id(model)) or before.get(id(model))
        if known is None or known.state is not model:
            known = Listing(model, self._buyers.of_labels(buyer.labels).objective)
        self._listed[id(model)] = known
        return buyer, known

    @timed("search for triggers")
    def _suspects(self, models: Mapping[str, tuple[Buyer, StateDict]]) -> frozenset[str]:
        """Return the agents whose models hide a trigger, if that is to be scanned for."""
        if not self._terms.trigger_scan:
            return frozenset()
        found = set()
        for agent, (buyer, model) in models.items():
            classifier, (inputs, _) = buyer.objective.classifier, buyer.objective.fit
            if classifier is None or not inputs.is_floating_point():
                raise MarketError("trigger-scan must be 0 for inputs that are not floating-point numbers")
            sizes = smallest_triggers(classifier.model, self._hardware.place_state(model), inputs)
            if hides_trigger(sizes, self._terms.trigger_scan):
                found.add(agent)
        return frozenset(found)
