"""The broker: one trading round over plain models (paper, section 3.1, figure 1, and Algorithm 1).

Nothing here knows of messages. A round is :meth:`Broker.try_before_purchase`, then the agents' bids, then their asks,
then :meth:`Broker.bargain`, which agrees on deals and puts the payments into escrow; :meth:`Ledger.settle` and
:meth:`Ledger.refund` end a deal once the delivery is acknowledged, or is not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import torch
from torch import Tensor, nn

from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.gains import Profile
from fl_market.hardware import CPU, Hardware
from fl_market.ledger import Deal, DealState, Ledger
from fl_market.market.novelty import novelty
from fl_market.market.objectives import Buyers
from fl_market.market.terms import Terms
from fl_market.market.trials import Showroom, Trial, certified_losses, surest
from fl_market.merging import layer_of, select_layers
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
from fl_market.pricing.money import LIMIT, micro_credits
from fl_market.seeds import reproducible

__all__ = ["Broker", "BrokerMemory", "Terms", "Trial"]

DELIVERIES_KEPT = 3
"""Deliveries to each buyer that sellers' parameters are compared with."""


@dataclass(frozen=True)
class BrokerMemory:
    """What the next rounds depend on besides the agents' models.

    Attributes
    ----------
    delivered
        Agent -> the last models that it was delivered, acknowledged or not.
    permutations
        Pair of agents -> where the next search for their match starts.
    profiles
        Agent -> what it told of its purpose.
    unpaid
        Buyer -> ids of the deals of each delivery, one after the other, that it left unacknowledged.
    runs
        What the ids of the market's deals begin with.
    """

    delivered: Mapping[str, Sequence[StateDict]] = field(default_factory=dict)
    permutations: Mapping[tuple[str, str], Permutation] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    unpaid: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    runs: Sequence[str] = ()


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
    build
        Makes the architecture for a number of classes; needed where agents distinguish some of the classes only.
    hardware
        Where models are evaluated.
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
        build: Callable[[int], nn.Module] | None = None,
        hardware: Hardware = CPU,
    ) -> None:
        self.terms = terms or Terms()
        self.ledger = ledger if ledger is not None else Ledger.open()
        self.spec: PermutationSpec = derive_spec(model, fit[0][:2])

        def architecture(classes: int | None) -> nn.Module:
            if classes is None:
                return model
            if build is None:
                raise MarketError("agents cannot have labels of their own here: the broker builds one architecture")
            return build(classes)

        repaired = self.terms.repair
        self._buyers = Buyers(architecture, criterion, fit, certify, repaired=repaired, hardware=hardware, seed=seed)
        self._showroom = Showroom(self.terms)
        self._layers = frozenset(select_layers(model, self.terms.layers))
        self._run, self._seed, self._hardware = run, seed, hardware
        self._runs = [run]
        self.resellers: frozenset[str] = frozenset()
        self._delivered: dict[str, list[StateDict]] = {}
        self._permutations: dict[tuple[str, str], Permutation] = {}
        self._unpaid: dict[str, list[list[str]]] = {}

    def seat(self, agent: str, owner: str = "") -> int:
        """Open an agent's account with its endowment, unless it has one; return its balance in micro-credits.

        Raises
        ------
        MarketError
            If the account belongs to another owner.
        """
        return self.ledger.open_account(agent, micro_credits(self.terms.endowment), owner)

    def register(self, agent: str, profile: Profile) -> None:
        """Try and certify what this agent buys by its own purpose, and trade with it what its model has in common.

        Raises
        ------
        MarketError
            If the profile does not fit the broker's data or the agent's model.
        """
        self._buyers.register(agent, profile)

    def loss_of(self, agent: str) -> Callable[[StateDict], float]:
        """Return the mean loss of a model by an agent's purpose, on all of the broker's data for it."""
        purpose = self._buyers.of(agent).purpose
        data = tuple(torch.cat(parts) for parts in zip(purpose.fit, purpose.certify, strict=True))

        def mean_loss(state: StateDict) -> float:
            with reproducible(self._seed, "loss"), torch.no_grad():
                return float(purpose.loss(self._placed(state), data).mean())

        return mean_loss

    def template(self, agent: str, profile: Profile | None = None) -> StateDict:
        """Return a state dict of the names, shapes and dtypes that the agent's model must have.

        Parameters
        ----------
        agent
            Its name.
        profile
            One that it is about to register; by default, the one that it has registered, if any.

        Raises
        ------
        MarketError
            If the profile's labels are not some of the broker's.
        """
        return (self._buyers.of(agent) if profile is None else self._buyers.of_labels(profile.labels)).template

    def record_delivery(self, buyer: str, merged: StateDict) -> None:
        """Remember what a buyer acknowledged."""
        self._remember_delivered(buyer, merged)
        self._unpaid.pop(buyer, None)

    def record_silence(self, buyer: str, deals: Sequence[Deal], merged: StateDict) -> None:
        """Remember what a buyer was delivered, but did not acknowledge: it may hold it all the same."""
        self._remember_delivered(buyer, merged)
        self._unpaid.setdefault(buyer, []).append([deal.id for deal in deals])

    def _remember_delivered(self, buyer: str, merged: StateDict) -> None:
        self._delivered[buyer] = [*self._delivered.get(buyer, ()), merged][-DELIVERIES_KEPT:]

    def may_buy(self, buyer: str) -> bool:
        """Return whether a buyer has the right to buy: it loses it by leaving one delivery after another unpaid."""
        return len(self._unpaid.get(buyer, ())) < self.terms.unpaid_deliveries

    def unpaid(self, buyer: str) -> list[Deal]:
        """Return the deals that a buyer did not acknowledge since it last did, or last paid for them."""
        wanted = {identifier for delivery in self._unpaid.get(buyer, ()) for identifier in delivery}
        return [deal for deal, _ in self.trades if deal.id in wanted]

    def pay_late(self, buyer: str) -> bool:
        """Let a buyer pay for all that it did not acknowledge; return whether its balance covered it.

        With that it has the right to buy again.
        """
        states = [self.ledger.pay_late(deal.id) for deal in self.unpaid(buyer)]
        if not all(state.paid for state in states):
            return False
        self._unpaid.pop(buyer, None)
        return True

    @property
    def trades(self) -> list[tuple[Deal, DealState]]:
        """The deals of this market, which may share its ledger with others, in the order of rounds and ids."""
        begins = tuple(f"{run}/" for run in self._runs)
        return [(deal, state) for deal, state in self.ledger.deals() if deal.id.startswith(begins)]

    def abandon_open_deals(self) -> None:
        """End all deals that are neither settled nor refunded: their round was lost."""
        for deal, state in self.trades:
            if state in (DealState.AGREED, DealState.ESCROWED, DealState.DELIVERED):
                self.ledger.abandon(deal.id)

    @property
    def memory(self) -> BrokerMemory:
        """What must be kept for the market to go on as if nothing had happened."""
        unpaid = {buyer: [list(deals) for deals in some] for buyer, some in self._unpaid.items()}
        return BrokerMemory(
            {buyer: list(models) for buyer, models in self._delivered.items()},
            dict(self._permutations),
            dict(self._buyers.profiles),
            unpaid,
            tuple(self._runs),
        )

    def restore(self, memory: BrokerMemory) -> None:
        """Take over what another broker of the same market remembered."""
        self._delivered = {buyer: list(models) for buyer, models in memory.delivered.items()}
        self._permutations = dict(memory.permutations)
        self._unpaid = {buyer: [list(deals) for deals in some] for buyer, some in memory.unpaid.items()}
        self._runs = [*(run for run in memory.runs if run != self._run), self._run]
        for agent, profile in memory.profiles.items():
            self.register(agent, profile)

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
            placed = {agent: self._placed(models[agent]) for agent in agents}
            self.resellers = frozenset(agent for agent in agents if self._resells(agent, models[agent]))
            losses = {agent: certified_losses(self._buyers.of(agent).purpose, placed[agent]) for agent in agents}
            trials = []
            aligned: dict[tuple[str, str], StateDict] = {}
            for first, second in combinations(agents, 2):
                spec, permutation = self._match(first, second, models)
                for names, order in (
                    ((first, second), permutation),
                    ((second, first), invert(spec, permutation)),
                ):
                    buyer, seller = names
                    if seller in self.resellers:
                        trials.append(self._showroom.nothing(names, placed[buyer], losses[buyer]))
                        continue
                    state = apply_permutation(spec, order, placed[seller])
                    trials.append(self._try(names, placed[buyer], state, losses[buyer]))
                    if self.terms.max_purchases > 1:
                        aligned[names] = state
            trials.sort(key=lambda trial: (trial.buyer, trial.seller))
            bundles = [self._bundle(buyer, trials, aligned) for buyer in agents]
            return [self._fetched(trial) for trial in (*trials, *(trial for bundle in bundles for trial in bundle))]

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

    def _placed(self, state: StateDict) -> StateDict:
        return dict(zip(state, self._hardware.place(*state.values()), strict=True))

    def _fetched(self, trial: Trial) -> Trial:
        """Return a trial whose models lie in the processor's memory again."""
        if self._hardware.device.type == "cpu":
            return trial
        before, merged = (
            {name: tensor.cpu() for name, tensor in state.items()} for state in (trial.before, trial.merged)
        )
        return replace(trial, before=before, merged=merged)

    def _resells(self, agent: str, model: StateDict) -> bool:
        """Return whether what an agent has to sell was delivered to somebody, in whatever order of the units."""
        for owner, deliveries in self._delivered.items():
            spec, shared = self._in_common(agent, owner)
            sold, *known = ({name: state[name] for name in shared} for state in (model, *deliveries))
            if novelty(spec, sold, known, self.terms.novelty) <= self.terms.novelty:
                return True
        return False

    def _in_common(self, first: str, second: str) -> tuple[PermutationSpec, tuple[str, ...]]:
        """Return what may be permuted of the layers that two agents share, and the names of their tensors."""
        layers = self._buyers.shared_layers(first, second)
        template = self.template(first)
        tensors = tuple(name for name in template if layer_of(name) in layers)
        return (self.spec if len(tensors) == len(template) else self.spec.restricted_to(tensors)), tensors

    def _match(self, first: str, second: str, models: Mapping[str, StateDict]) -> tuple[PermutationSpec, Permutation]:
        """Return the permutation of ``second``'s units that fits ``first``; last round's is where the search starts."""
        spec, shared = self._in_common(first, second)
        if self.terms.alignment == "none":
            return spec, identity_permutation(spec)
        one, other = ({name: models[agent][name] for name in shared} for agent in (first, second))
        found = match(spec, one, other, seed=self._seed, start=self._permutations.get((first, second)))
        self._permutations[first, second] = found
        return spec, found

    def _try(self, names: tuple[str, str], own: StateDict, aligned: StateDict, losses: Tensor) -> Trial:
        """Return the trial of a purchase of the layers that two agents share, as far as they are for sale."""
        for_sale = [layer for layer in self._buyers.shared_layers(*names) if layer in self._layers]
        return self._showroom.try_out(names, self._buyers.of(names[0]), own, aligned, losses, for_sale)

    def _bundle(self, buyer: str, trials: Sequence[Trial], aligned: Mapping[tuple[str, str], StateDict]) -> list[Trial]:
        """Return what a buyer could add to its best purchase: always the seller whose marginal gain is surest next."""
        best = surest(trial for trial in trials if trial.buyer == buyer)
        bundle: list[Trial] = []
        while best is not None and len(bundle) + 1 < self.terms.max_purchases:
            after = (*best.after, best.seller)
            losses = certified_losses(self._buyers.of(buyer).purpose, best.merged)
            candidates = [
                self._try(names, best.merged, state, losses)
                for names, state in aligned.items()
                if names[0] == buyer and names[1] not in after
            ]
            best = surest(replace(trial, after=after) for trial in candidates)
            if best is not None:
                bundle.append(best)
        return bundle
