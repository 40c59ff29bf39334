"""The last step of a trading round: deliveries, and the decision on the deals in escrow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from fl_market.ledger import Deal
from fl_market.market.outcome import Acknowledgement, Delivery, Notice, Outcome
from fl_market.market.state import MarketState
from fl_market.market.trials import Trial
from fl_market.parameters import StateDict, digest
from fl_market.protocol import Receipt

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
    def digests(self) -> dict[str, str]:
        """Agent -> SHA-256 of the model that it receives, bought or free of charge."""
        return {agent: digest(model) for agent, model in self._received.items()}

    @cached_property
    def _received(self) -> dict[str, StateDict]:
        bought = {buyer: deals[-1][1].merged for buyer, deals in self.deals.items()}
        return {**self.round.given, **bought}

    def deliver(self) -> dict[str, Delivery]:
        """Record the deliveries, and return the delivery to each agent of the round."""
        receipts: dict[str, list[Receipt]] = {}
        with self.round.ledger.together():
            for deal in self.agreed:
                self.round.ledger.deliver(deal.id)
        for deal in self.agreed:
            for side, agent, partner in (("bought", deal.buyer, deal.seller), ("sold", deal.seller, deal.buyer)):
                key = self.round.partner_id(deal, partner)
                receipt = Receipt(key, side, self.round.state.pseudonyms[partner], deal.price)
                receipts.setdefault(agent, []).append(receipt)
        return {
            agent: Delivery(self._received.get(agent), self.digests.get(agent, ""), tuple(receipts.get(agent, ())))
            for agent in self.round.agents
        }

    def conclude(self, acknowledgements: Mapping[str, Acknowledgement | None]) -> Outcome:
        """Return the decision on the round: acknowledged deals are settled, others refunded.

        Parameters
        ----------
        acknowledgements
            Agent -> its acknowledgement; None or missing without an answer. A purchase becomes the
            buyer's model only with the acknowledgement of exactly this model.
        """
        state, notices = self.round.state.after(self.round.number), []
        state = state.with_models(
            {agent: model for agent, model in self.round.served.items() if agent not in self.deals}
        )
        settled: list[str] = []
        refunded: list[str] = []
        for buyer, deals in self.deals.items():
            identifiers, merged = [deal.id for deal, _ in deals], deals[-1][1].merged
            if acknowledgements.get(buyer) == Acknowledgement(self.digests[buyer]):
                settled += identifiers
                state = state.with_models({buyer: merged}).with_delivery(buyer, merged)
                state = self._after_payments(state, buyer, [trial for _, trial in deals])
            else:
                refunded += identifiers
                state = state.with_delivery(buyer, merged, identifiers)
                notices.append(Notice(buyer, "it did not acknowledge its purchase, which is refunded"))
        state = replace(state, budget=self.round.told)
        return Outcome(tuple(settled), tuple(refunded), state, tuple(notices))

    def _after_payments(self, state: MarketState, buyer: str, bought: Sequence[Trial]) -> MarketState:
        """Return the state with the certified progress of a buyer's settled bundle."""
        for trial in bought:
            if trial.priced and self.round.terms.certificate != "published":
                # a later purchase of the bundle, on approval, is no certified progress
                state = state.with_best(buyer, trial.merged)
        return state
