"""All purchases of one round: every pair of agents, then incremental purchases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from fl_market.hardware import Hardware
from fl_market.market.alignment import Aligner
from fl_market.market.buyers import Buyer, Buyers
from fl_market.market.novelty import novelty
from fl_market.market.state import MarketState
from fl_market.market.terms import Terms
from fl_market.market.trials import Incumbent, Trial, evaluate_purchase, highest_lower_bound, no_purchase
from fl_market.parameters import StateDict
from fl_market.permutation import Permutation
from fl_market.seeds import reproducible

Pair = tuple[str, str]
"""Buyer and seller, or two agents in the order of their names."""


@dataclass(frozen=True)
class Evaluation:
    """The trials of one round.

    Attributes
    ----------
    trials
        One for each ordered pair, in the order of names, certified or not; incremental purchases
        follow, buyer by buyer.
    resellers
        Agents whose parameters match a delivered model: they have nothing to sell.
    permutations
        Pair of agents -> its permutation, from which the next search starts.
    """

    trials: Sequence[Trial] = ()
    resellers: frozenset[str] = frozenset()
    permutations: Mapping[Pair, Permutation] = field(default_factory=dict)


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
    """

    def __init__(
        self,
        buyers: Buyers,
        aligner: Aligner,
        terms: Terms,
        for_sale: frozenset[str],
        hardware: Hardware,
        seed: int,
    ) -> None:
        self._buyers, self._aligner, self._terms = buyers, aligner, terms
        self._for_sale, self._hardware, self._seed = for_sale, hardware, seed

    def evaluate(self, state: MarketState, models: Mapping[str, StateDict]) -> Evaluation:
        """Try every purchase among some agents, on their models before any trade of the round.

        Parameters
        ----------
        state
            State of the market before the round.
        models
            Agent -> its parameters after local training.
        """
        with reproducible(self._seed, "try-before-purchase"):
            agents = sorted(models)
            buyers = {agent: self._buyers.of(state.profiles.get(agent)) for agent in agents}
            resellers = frozenset(agent for agent in agents if self._resells(agent, buyers, models[agent], state))
            incumbents = {
                agent: Incumbent.of(buyers[agent], self._hardware.place_state(models[agent])) for agent in agents
            }
            permutations = dict(state.permutations)
            aligned: dict[Pair, StateDict] = {}  # only incremental purchases need them again
            trials: list[Trial] = []
            for first, second in combinations(agents, 2):
                one, other = ((buyers[agent], models[agent]) for agent in (first, second))
                found = self._aligner.align(one, other, state.permutations.get((first, second)))
                permutations[first, second] = found.permutation
                for pair, in_order in (((first, second), found.to_first), ((second, first), found.to_second)):
                    buyer, seller = pair
                    if seller in resellers:
                        trials.append(no_purchase(pair, incumbents[buyer], self._terms))
                        continue
                    offered = in_order(incumbents[seller].state)
                    trials.append(self._evaluate(pair, incumbents[buyer], offered, buyers[seller]))
                    if self._terms.max_purchases > 1:
                        aligned[pair] = offered
            trials.sort(key=lambda trial: (trial.buyer, trial.seller))
            for agent in agents:
                trials += self._incremental(agent, trials, aligned, buyers)
            return Evaluation([self._fetched(trial) for trial in trials], resellers, permutations)

    def _evaluate(self, pair: Pair, incumbent: Incumbent, aligned: StateDict, seller: Buyer) -> Trial:
        layers = self._buyers.shared_layers(incumbent.buyer, seller)
        for_sale = [layer for layer in layers if layer in self._for_sale]
        return evaluate_purchase(pair, incumbent, aligned, for_sale, self._terms)

    def _incremental(
        self,
        buyer: str,
        trials: Sequence[Trial],
        aligned: Mapping[Pair, StateDict],
        buyers: Mapping[str, Buyer],
    ) -> list[Trial]:
        """Return a buyer's incremental purchases after its best one.

        Each is from the seller whose marginal gain has the highest lower bound.
        """
        best = highest_lower_bound(trial for trial in trials if trial.buyer == buyer)
        added: list[Trial] = []
        while best is not None and len(added) + 1 < self._terms.max_purchases:
            bundle = best.sellers
            incumbent = Incumbent.of(buyers[buyer], best.merged)
            candidates = [
                self._evaluate(pair, incumbent, state, buyers[pair[1]])
                for pair, state in aligned.items()
                if pair[0] == buyer and pair[1] not in bundle
            ]
            best = highest_lower_bound(replace(trial, after=bundle) for trial in candidates)
            if best is not None:
                added.append(best)
        return added

    def _resells(self, agent: str, buyers: Mapping[str, Buyer], model: StateDict, state: MarketState) -> bool:
        """Return whether an agent's parameters match a delivery, in any order of the units."""
        for owner, deliveries in state.delivered.items():
            receiver = self._buyers.of(state.profiles.get(owner))
            spec, shared = self._aligner.in_common(buyers[agent], receiver)
            sold, *known = ({name: one[name] for name in shared} for one in (model, *deliveries))
            if novelty(spec, sold, known, self._terms.novelty) <= self._terms.novelty:
                return True
        return False

    def _fetched(self, trial: Trial) -> Trial:
        """Return a trial with its merged model in main memory."""
        if self._hardware.device.type == "cpu":
            return trial
        return replace(trial, merged={name: tensor.cpu() for name, tensor in trial.merged.items()})
