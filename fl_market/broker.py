"""The broker: one trading round over plain models (paper, section 3.1, figure 1, and Algorithm 1).

Nothing here knows of messages. A round is :meth:`Broker.try_before_purchase`, then the agents' bids, then their asks,
then :meth:`Broker.bargain`, which agrees on deals and puts the payments into escrow; :meth:`Broker.settle` and
:meth:`Broker.refund` end a deal once the delivery is acknowledged, or is not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor, nn

from fl_market.errors import MarketError
from fl_market.gains import Batch, Certificate, ModelLoss, Purpose, certify, split_in_halves, weighted_purpose
from fl_market.ledger import Deal, DealState, Ledger
from fl_market.merging import (
    ALL,
    Alpha,
    Merge,
    Repair,
    best_layers,
    fit_weights,
    hold_out,
    interpolate,
    layer_sizes,
    layers_of,
    mean_alpha,
    only_layers,
    repair_for,
    select_layers,
)
from fl_market.novelty import novelty
from fl_market.parameters import StateDict
from fl_market.permutation import (
    Permutation,
    PermutationSpec,
    apply_permutation,
    derive_spec,
    identity_permutation,
    invert,
    match,
)
from fl_market.pricing import PricingRule, free
from fl_market.pricing.money import LIMIT
from fl_market.seeds import reproducible


@dataclass(frozen=True)
class Terms:
    """How the broker merges, certifies and prices.

    Attributes
    ----------
    aligned
        Whether a seller's units are matched to the buyer's before the merge.
    granularity
        One purchased weight for the ``"model"``, each ``"layer"`` or each ``"row"``.
    layers
        What a purchase comprises, as :func:`fl_market.merging.select_layers` reads it.
    layer_budget
        Share of the parameters that a purchase may comprise at most; below 1, the broker picks the best layers.
    max_purchases
        How many sellers a buyer may buy from in one round.
    repaired
        Whether a merged model's activation statistics may be restored, or its BatchNorm statistics recomputed.
    rule
        Pricing rule.
    disclosure
        What sellers are told of a buyer, as :data:`fl_market.protocol.DISCLOSURES` says.
    novelty
        How far a seller's parameters must be from all that was delivered, as a share of their norm: bought weights
        cannot be resold as one's own.
    gain, confidence
        Form of the gain-from-trade and level of its lower bound.
    fit_steps, fit_learning_rate
        Gradient steps on the weights of layers or rows.
    endowment
        Micro-credits that each agent's account opens with.
    """

    aligned: bool = True
    granularity: str = "model"
    layers: str = ALL
    layer_budget: float = 1.0
    max_purchases: int = 1
    repaired: bool = True
    rule: PricingRule = free
    disclosure: str = "sealed"
    novelty: float = 1e-4
    gain: str = "relative"
    confidence: float = 0.95
    fit_steps: int = 40
    fit_learning_rate: float = 0.1
    endowment: int = 100_000_000


@dataclass(frozen=True)
class Trial:
    """One purchase that the broker tried: the model before it and the merged one, and what was certified of it.

    ``after`` names the sellers whose purchases this one comes on top of: its gain is what it adds to them.
    """

    buyer: str
    seller: str
    layers: str
    alpha: float
    certificate: Certificate
    before: StateDict
    merged: StateDict
    after: tuple[str, ...] = ()


class Broker:
    """The trusted third party.

    Parameters
    ----------
    model
        The architecture; its own parameters do not matter.
    criterion
        Losses of (outputs, targets), one for each sample.
    fit, certify
        Disjoint parts of the broker's validation data: the first chooses α, the second certifies the gain.
    ledger
        Where deals are recorded and money moves; a new one in memory by default.
    terms
        How to merge, certify and price.
    run
        Begins the id of each deal, so that runs can share a ledger.
    seed
        Decides the order in which matching visits the groups.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: nn.Module,
        fit: Batch,
        certify: Batch,
        *,
        ledger: Ledger | None = None,
        terms: Terms | None = None,
        run: str = "run",
        seed: int = 0,
    ) -> None:
        self.terms = terms or Terms()
        self.ledger = ledger if ledger is not None else Ledger.open()
        self.template: StateDict = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.spec: PermutationSpec = derive_spec(model, fit[0][:2])
        self._common = Purpose(ModelLoss(model, criterion), fit, certify)
        self._purposes: dict[str, Purpose] = {}
        self._repair = repair_for(model, fit[0]) if self.terms.repaired else None
        # measured: of the networks that are repaired, perceptrons alone gain from evaluating the grid of α together
        owners = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
        self._together = isinstance(self._repair, Repair) and all(isinstance(module, nn.Linear) for module in owners)
        self._layers = select_layers(self.template, self.terms.layers)
        self._run, self._seed = run, seed
        self.resellers: frozenset[str] = frozenset()
        self._delivered: dict[str, StateDict] = {}
        self._permutations: dict[tuple[str, str], Permutation] = {}

    def seat(self, agent: str) -> int:
        """Open an agent's account with its endowment, unless it has one; return its balance in micro-credits."""
        return self.ledger.open_account(agent, self.terms.endowment)

    def register_class_weights(self, agent: str, weights: Sequence[float]) -> None:
        """Try and certify what this agent buys by its own target class weights.

        Raises
        ------
        MarketError
            If the weights are none.
        """
        self._purposes[agent] = weighted_purpose(self._common, weights)

    def register_validation(self, agent: str, data: Batch) -> None:
        """Try and certify what this agent buys on validation data of its own: half chooses α, half certifies.

        Raises
        ------
        MarketError
            If there are fewer than four samples.
        """
        if len(data[0]) < 4:
            raise MarketError("a buyer's own validation data must have at least four samples")
        self._purposes[agent] = Purpose(self._common.loss, *split_in_halves(data, self._seed))

    def record_delivery(self, buyer: str, merged: StateDict) -> None:
        """Remember what a buyer acknowledged, until it buys again."""
        self._delivered[buyer] = merged

    def try_before_purchase(self, models: Mapping[str, StateDict]) -> list[Trial]:
        """Try every purchase among the agents, all on their models as they are now.

        Parameters
        ----------
        models
            Name of each agent -> its parameters after local training.

        Returns
        -------
        list of Trial
            One for each ordered pair, in the order of names, also where no gain is certified or the seller has nothing
            of its own (``resellers``). With ``max_purchases`` above 1 they are followed by bundles: what a buyer could
            add to its best purchase, seller by seller, as long as the marginal gain is certified.
        """
        with reproducible(self._seed, "try-before-purchase"):
            agents = sorted(models)
            purposes = {agent: self._purposes.get(agent, self._common) for agent in agents}
            self.resellers = frozenset(agent for agent in agents if self._resells(models[agent]))
            own = {agent: _certified_losses(purposes[agent], models[agent]) for agent in agents}
            trials = []
            aligned: dict[tuple[str, str], StateDict] = {}
            for first, second in combinations(agents, 2):
                permutation = self._match(first, second, models)
                for buyer, seller, order in (
                    (first, second, permutation),
                    (second, first, invert(self.spec, permutation)),
                ):
                    if seller in self.resellers:
                        trials.append(self._nothing(buyer, seller, models[buyer], own[buyer]))
                        continue
                    state = apply_permutation(self.spec, order, models[seller])
                    trials.append(self._try(buyer, seller, models[buyer], state, own[buyer], purposes[buyer]))
                    if self.terms.max_purchases > 1:
                        aligned[buyer, seller] = state
            trials.sort(key=lambda trial: (trial.buyer, trial.seller))
            bundles = [self._bundle(buyer, trials, aligned, purposes[buyer]) for buyer in agents]
            return trials + [trial for bundle in bundles for trial in bundle]

    def bargain(
        self,
        market_round: int,
        trials: Sequence[Trial],
        bids: Mapping[tuple[str, str], int],
        asks: Mapping[tuple[str, str], int],
    ) -> dict[str, list[tuple[Deal, Trial]]]:
        """Agree on deals where bid ≥ ask, and put each price into escrow.

        Parameters
        ----------
        market_round
            Number of the round.
        trials
            This round's trials.
        bids, asks
            (buyer, seller) -> micro-credits. A buyer bids on one seller, or on the first ones of its bundle, in their
            order. Where the pricing rule needs asks, a bid without one is no deal, and neither are those on top.

        Returns
        -------
        dict
            Buyer -> its deals, each with its trial; the last one's merged model is to be delivered. A purchase that
            the buyer's balance does not cover is recorded as void and is not among them.

        Raises
        ------
        MarketError
            If a bid is on no offer, or the bids of a buyer are not on one purchase and what comes on top of it.
        """
        offers = {(trial.buyer, *trial.after, trial.seller): trial for trial in trials if trial.certificate.positive}
        agreed: dict[str, list[tuple[Deal, Trial]]] = {}
        for buyer in sorted({buyer for buyer, _ in bids}):
            sellers = [seller for name, seller in bids if name == buyer]
            wanted = [offers.get((buyer, *sellers[: place + 1])) for place in range(len(sellers))]
            for seller, trial in zip(sellers, wanted, strict=True):
                if trial is None or None in wanted:
                    raise MarketError(f"{buyer} bids on an offer that does not exist")
                deal = self._deal(market_round, trial, bids[buyer, seller], asks.get((buyer, seller)))
                if deal is None:
                    break
                self.ledger.agree(deal)
                if self.ledger.escrow(deal.id) is not DealState.ESCROWED:
                    break
                agreed.setdefault(buyer, []).append((deal, trial))
        return agreed

    def check_amount(self, amount: int) -> int:
        """Return a bid or an ask in micro-credits, or raise MarketError where it is none that can be paid."""
        if not 0 <= amount < LIMIT:
            raise MarketError(f"a bid or an ask must be at least 0 and below {LIMIT} micro-credits, not {amount}")
        return amount

    def _deal(self, market_round: int, trial: Trial, bid: int, ask: int | None) -> Deal | None:
        if ask is None and self.terms.rule.asks:
            return None
        price = self.terms.rule.price(bid, ask or 0)
        if price is None:
            return None
        return Deal(
            id=f"{self._run}/{market_round}/{trial.buyer}/{trial.seller}",
            round=market_round,
            buyer=trial.buyer,
            seller=trial.seller,
            bid=bid,
            ask=ask or 0,
            price=price,
            gain=trial.certificate.gain,
            lower_bound=trial.certificate.lower_bound,
            alpha=trial.alpha,
        )

    def _resells(self, model: StateDict) -> bool:
        """Return whether a model is what was delivered to somebody, in whatever order of the units."""
        return novelty(self.spec, model, self._delivered.values(), self.terms.novelty) <= self.terms.novelty

    def _match(self, first: str, second: str, models: Mapping[str, StateDict]) -> Permutation:
        """Return the permutation of ``second``'s units that fits ``first``; last round's is where the search starts."""
        if not self.terms.aligned:
            return identity_permutation(self.spec)
        found = match(
            self.spec, models[first], models[second], seed=self._seed, start=self._permutations.get((first, second))
        )
        self._permutations[first, second] = found
        return found

    def _bundle(
        self,
        buyer: str,
        trials: Sequence[Trial],
        aligned: Mapping[tuple[str, str], StateDict],
        purpose: Purpose,
    ) -> list[Trial]:
        """Return what a buyer could add to its best purchase: always the seller whose marginal gain is surest next."""
        best = _surest(trial for trial in trials if trial.buyer == buyer)
        bundle: list[Trial] = []
        while best is not None and len(bundle) + 1 < self.terms.max_purchases:
            after = (*best.after, best.seller)
            losses = _certified_losses(purpose, best.merged)
            candidates = [
                self._try(buyer, seller, best.merged, state, losses, purpose)
                for (name, seller), state in aligned.items()
                if name == buyer and seller not in after
            ]
            best = _surest(replace(trial, after=after) for trial in candidates)
            if best is not None:
                bundle.append(best)
        return bundle

    def _nothing(self, buyer: str, seller: str, own: StateDict, own_losses: Tensor) -> Trial:
        return Trial(buyer, seller, "", 0.0, self._certificate(own_losses, own_losses), own, own)

    def _try(
        self, buyer: str, seller: str, own: StateDict, aligned: StateDict, own_losses: Tensor, purpose: Purpose
    ) -> Trial:
        nothing = self._nothing(buyer, seller, own, own_losses)
        layers = self._goods(own, aligned, purpose)
        if not layers:
            return nothing
        bought = only_layers(own, aligned, layers)
        merge = self._merging(own, bought, purpose)
        try:
            alpha = self._fit_weights(own, bought, merge, purpose, self.terms.granularity)
        except MarketError:
            # a seller whose parameters are finite but absurd: no merged model has a finite loss, so nothing is for sale
            return nothing
        with torch.no_grad():
            merged = merge(alpha)
        certificate = self._certificate(own_losses, _certified_losses(purpose, merged))
        goods = ALL if len(layers) == len(layers_of(own)) else ",".join(layers)
        return Trial(buyer, seller, goods, mean_alpha(alpha, own, layers), certificate, own, merged)

    def _fit_weights(
        self, own: StateDict, bought: StateDict, merge: Merge, purpose: Purpose, granularity: str
    ) -> Alpha:
        return fit_weights(
            own,
            bought,
            purpose.loss,
            purpose.fit,
            granularity,
            merge=merge,
            together=self._together,
            steps=self.terms.fit_steps,
            learning_rate=self.terms.fit_learning_rate,
        )

    def _goods(self, own: StateDict, aligned: StateDict, purpose: Purpose) -> tuple[str, ...]:
        """Return the layers that a purchase comprises: the named ones or, within a budget, the best among these.

        A set of layers is judged by the lower bound of its gain on the held-out part of the fit split.
        """
        if self.terms.layer_budget >= 1:
            return self._layers
        chosen, held_out = hold_out(purpose.fit)
        with torch.no_grad():
            before = purpose.loss(own, held_out)

        def gain(layers: frozenset[str]) -> float:
            bought = only_layers(own, aligned, tuple(layers))
            merge = self._merging(own, bought, purpose)
            try:
                alpha = self._fit_weights(own, bought, merge, replace(purpose, fit=chosen), "model")
            except MarketError:
                return -float("inf")
            with torch.no_grad():
                return self._certificate(before, purpose.loss(merge(alpha), held_out)).lower_bound

        sizes = layer_sizes(own)
        budget = int(self.terms.layer_budget * sum(sizes.values()))
        best, _ = best_layers(budget, {layer: sizes[layer] for layer in self._layers}, gain)
        return tuple(layer for layer in self._layers if layer in best)

    def _certificate(self, before: Tensor, after: Tensor) -> Certificate:
        return certify(before, after, confidence=self.terms.confidence, kind=self.terms.gain)

    def _merging(self, own: StateDict, aligned: StateDict, purpose: Purpose) -> Merge:
        """Return how these two are merged for a given purchased weight.

        A repair keeps a merged network as sure of itself as its two ends are. Where both are wrongly sure (they know
        different classes), the plain interpolation is better: the fit split decides, at the midpoint, where the two
        differ most.
        """

        def plain(alpha: Alpha) -> StateDict:
            return interpolate(own, aligned, alpha)

        if self._repair is None:
            return plain
        repaired = self._repair.merging(own, aligned)
        with torch.no_grad():
            losses = [float(purpose.loss(merge(0.5), purpose.fit).mean()) for merge in (plain, repaired)]
        return repaired if losses[1] < losses[0] else plain


def _surest(trials: Iterable[Trial]) -> Trial | None:
    """Return the trial with the greatest lower bound of its gain, or None where none is certified."""
    certified = [trial for trial in trials if trial.certificate.positive]
    return max(certified, key=lambda trial: (trial.certificate.lower_bound, trial.seller), default=None)


def _certified_losses(purpose: Purpose, state: StateDict) -> Tensor:
    with torch.no_grad():
        return purpose.loss(state, purpose.certify)
