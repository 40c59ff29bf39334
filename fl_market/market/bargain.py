"""The last step of a trading round: deliveries, and the decision on the deals in escrow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from fl_market.ledger import Deal
from fl_market.market.outcome import Acknowledgement, Delivery, Notice, Outcome, SealedDelivery
from fl_market.market.state import MarketState
from fl_market.market.trials import Trial
from fl_market.parameters import StateDict, digest
from fl_market.protocol import Receipt
from fl_market.sealing import new_key

if TYPE_CHECKING:  # a round makes its bargain
    from fl_market.market.round import TradingRound


@dataclass(frozen=True)
class Bargain:
    """A round after the deals, which are in escrow.

    Attributes
    ----------
    round
        The round.
    deals
        Buyer -> its deals, each with its trial; the merged model of the last one is delivered.
    notices
        Invalid asks.
    """

    round: "TradingRound"
    deals: Mapping[str, tuple[tuple[Deal, Trial], ...]] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()

    @property
    def agreed(self) -> list[Deal]:
        """All deals of the round, buyer by buyer."""
        return [deal for deals in self.deals.values() for deal, _ in deals]

    @cached_property
    def _keys(self) -> dict[str, bytes]:
        """Buyer -> the key of its purchase."""
        return {buyer: new_key() for buyer in self.deals}

    @cached_property
    def _sealed(self) -> dict[str, SealedDelivery]:
        return {buyer: SealedDelivery(merged, self._keys[buyer]) for buyer, merged in self._bought.items()}

    @property
    def _bought(self) -> dict[str, StateDict]:
        return {buyer: deals[-1][1].merged for buyer, deals in self.deals.items()}

    def deliver(self) -> dict[str, SealedDelivery]:
        """Record the deliveries, and return each buyer's purchase, which it cannot read yet."""
        with self.round.ledger.together(deal.id for deal in self.agreed):
            for deal in self.agreed:
                self.round.ledger.deliver(deal.id)
        return self._sealed

    def conclude(self, acknowledgements: Mapping[str, Acknowledgement | None]) -> Outcome:
        """Return the decision on the round: acknowledged deals are settled, others refunded.

        Parameters
        ----------
        acknowledgements
            Buyer -> its acknowledgement; None or missing without an answer. A purchase becomes the
            buyer's model, and the key is released, only with the acknowledgement of exactly the
            sealed bytes.
        """
        buyers = {
            buyer for buyer, delivery in self._sealed.items() if acknowledgements.get(buyer) == delivery.acknowledge()
        }
        given = {agent: model for agent, model in self.round.given.items() if agent not in self.deals}
        served = {agent: model for agent, model in self.round.served.items() if agent not in self.deals}
        settled = [deal for deal in self.agreed if deal.buyer in buyers]
        state = self.round.state.with_sales(sorted({deal.seller for deal in settled}))
        state = state.after(self.round.number).with_models(served)
        for buyer in sorted(buyers):
            state = state.with_models({buyer: self._bought[buyer]}).with_delivery(buyer, self._bought[buyer])
            state = self._after_payments(state, buyer, [trial for _, trial in self.deals[buyer]])
        state = replace(state, budget=self.round.told).with_receipts(self._receipts(settled))
        return Outcome(
            tuple(deal.id for deal in settled),
            tuple(deal.id for deal in self.agreed if deal.buyer not in buyers),
            state,
            tuple(
                Notice(buyer, "it did not acknowledge its purchase, which is refunded")
                for buyer in self.deals
                if buyer not in buyers
            ),
            {agent: self._delivery(agent, agent in buyers, given.get(agent), state) for agent in self.round.agents},
        )

    def _delivery(self, agent: str, bought: bool, given: StateDict | None, state: MarketState) -> Delivery:
        receipts = tuple(state.receipts.get(agent, ()))
        if bought:
            return Delivery(self._bought[agent], self._sealed[agent].digest, self._keys[agent], receipts)
        return Delivery(given, "" if given is None else digest(given), receipts=receipts)

    def _receipts(self, settled: Sequence[Deal]) -> dict[str, list[Receipt]]:
        receipts: dict[str, list[Receipt]] = {}
        for deal in settled:
            for side, agent, partner in (("bought", deal.buyer, deal.seller), ("sold", deal.seller, deal.buyer)):
                key = self.round.partner_id(deal, partner)
                receipt = Receipt(key, side, self.round.state.pseudonyms[partner], deal.price)
                receipts.setdefault(agent, []).append(receipt)
        return receipts

    def _after_payments(self, state: MarketState, buyer: str, bought: Sequence[Trial]) -> MarketState:
        """Return the state with the certified progress of a buyer's settled bundle."""
        for trial in bought:
            if trial.priced and self.round.terms.certificate != "published":
                # a later purchase of the bundle, on approval, is no certified progress
                state = state.with_best(buyer, trial.merged)
        return state
