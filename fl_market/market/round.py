"""One trading round as a sequence of steps with typed results (paper, section 3.1, figure 1).

The steps follow one another, and none goes back::

    TradingRound   offers of certified purchases      -> accept_bids
    Bidding        quote requests for wanted offers   -> accept_asks
    Bargain        deals in escrow                    -> deliver, then conclude
    Outcome        settled and refunded deals, and the state for the next round

This module does not depend on messages. An agent's invalid answer becomes a :class:`Notice` and
excludes this agent from its part of the round; the round continues without it.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fl_market.errors import MarketError
from fl_market.gains import Counted, ErrorBudget, told
from fl_market.ledger import Deal, Ledger
from fl_market.market import settlement
from fl_market.market.answers import asked_amounts, chosen_purchases
from fl_market.market.bargain import Bargain
from fl_market.market.identifiers import deal_id, offer_id, partner_id
from fl_market.market.outcome import Notice
from fl_market.market.spending import after_offers
from fl_market.market.state import MarketState
from fl_market.market.terms import Terms
from fl_market.market.trials import Trial
from fl_market.parameters import StateDict
from fl_market.protocol import Ask, Bid, DisclosedQuote, Offer, PublicPrice, QuoteRequest

LEVEL_DIGITS = 3
"""Digits of an accuracy that offers tell."""
PUBLIC_PRICES, PRICES_OF_A_PAIR = 100, 5
"""Largest number of past prices sent to sellers, and of those from any one pair of agents."""
PRICES_READ = 1000
"""Number of the last deals in which public prices are looked for."""


@dataclass(frozen=True)
class TradingRound:
    """A round after the trials of its purchases, and before any message to an agent.

    Attributes
    ----------
    number
        Number of the round.
    run
        Name of the run in the ledger.
    terms, ledger
        Terms of the market, and its accounts.
    state
        The market, with the agents' models after local training.
    agents
        Agents that take part in the round.
    trials
        All tried purchases, certified or not.
    notices
        Agents with nothing to sell, or with parameters that would harm a buyer in some class.
    served
        Agent -> its model after the broker's free service, which it gets without a purchase.
    restored
        Agent -> its best certified model, which it gets back without a purchase.
    restores
        Whether best models are given back in this round; a purchase that is certified to be worse
        than the buyer's best model is then no offer.
    """

    number: int
    run: str
    terms: Terms
    ledger: Ledger
    state: MarketState
    agents: tuple[str, ...]
    trials: Sequence[Trial] = ()
    notices: tuple[Notice, ...] = ()
    served: Mapping[str, StateDict] = field(default_factory=dict)
    restored: Mapping[str, StateDict] = field(default_factory=dict)
    restores: bool = False

    @property
    def given(self) -> dict[str, StateDict]:
        """Agent -> the model that it gets free of charge if it buys nothing."""
        return {**self.served, **self.restored}

    @property
    def evaluated(self) -> int:
        """Number of single purchases that were evaluated."""
        return sum(not trial.after for trial in self.trials)

    @property
    def offers(self) -> dict[str, list[Offer]]:
        """Buyer -> its purchases, which no other agent may see.

        The gain is certified, and what the buyer pays for: 0 for a purchase on approval. The lower
        bound is that on the fit split, by which a buyer can rank its offers.
        """
        offers: dict[str, list[Offer]] = {}
        for trial in self._offered():
            names = self.state.pseudonyms
            offers.setdefault(trial.buyer, []).append(
                Offer(
                    id=offer_id(self.number, trial.sellers, names),
                    seller=names[trial.seller],
                    layers=trial.layers,
                    alpha=0.0 if self.terms.withhold_alpha else trial.alpha,
                    gain=self.payable(trial),
                    lower_bound=told(trial.promise) if math.isfinite(trial.promise) else 0.0,
                    after=offer_id(self.number, trial.after, names) if trial.after else "",
                    level_before=round(trial.levels[0], LEVEL_DIGITS),
                    level_after=round(trial.levels[1], LEVEL_DIGITS),
                )
            )
        return offers

    def accept_bids(self, bids: Mapping[str, Sequence[Bid]]) -> "Bidding":
        """Accept the buyers' bids, each on one offer and the incremental purchases after it.

        Parameters
        ----------
        bids
            Buyer -> its bids, in the order of the bundle; empty if it declines. One invalid bid
            invalidates all bids of the buyer.
        """
        offered: dict[str, dict[str, Trial]] = {}
        for trial in self._offered():
            key = offer_id(self.number, trial.sellers, self.state.pseudonyms)
            offered.setdefault(trial.buyer, {})[key] = trial
        wanted: dict[str, list[tuple[Trial, int]]] = {}
        notices = []
        for buyer in sorted(bids):
            try:
                wanted[buyer] = chosen_purchases(offered.get(buyer, {}), bids[buyer])
            except MarketError as error:
                notices.append(Notice(buyer, str(error)))
        return Bidding(self, wanted, tuple(notices))

    def payable(self, trial: Trial) -> float:
        """Return the rounded gain that a buyer is told and pays for."""
        return max(0.0, told(trial.due.gain)) if trial.priced else 0.0

    @property
    def told(self) -> ErrorBudget:
        """The error budget after all that agents are told in this round."""
        others = Counted()
        if self.restores:
            promising = [trial for trial in self.trials if trial.promise > 0 and trial.buyer in self.state.best]
            known = sum(agent in self.state.best for agent in self.agents)
            seen = len(self.restored) + sum(trial.regress for trial in promising)
            others = Counted(known + len(promising), seen)
        offers = [(trial, self.payable(trial)) for trial in self._possible()]
        return after_offers(self.state.budget, len(self.agents), offers, others, self.terms)

    def _possible(self) -> list[Trial]:
        """Return the trials that are offered if they have a price, or promise a gain."""
        return [trial for trial in self.trials if not (self.restores and trial.regress)]

    def _offered(self) -> list[Trial]:
        return [trial for trial in self._possible() if trial.priced or (self.terms.approval and trial.on_approval)]

    def partner_id(self, deal: Deal, partner: str) -> str:
        """Return the id under which one side of a deal knows it."""
        return partner_id(deal.round, partner, self.state.pseudonyms)


def shown_prices(latest: Iterable[tuple[Hashable, int]]) -> list[PublicPrice]:
    """Return the prices that every seller is shown, without names, the oldest first.

    Each pair of agents has a few of them at most, so that two that trade with each other again and
    again do not make the market's prices.

    Parameters
    ----------
    latest
        Pair of agents and price in micro-credits of each past deal, the latest first.
    """
    shown: Counter[Hashable] = Counter()
    prices: list[PublicPrice] = []
    for pair, price in latest:
        if shown[pair] < PRICES_OF_A_PAIR and len(prices) < PUBLIC_PRICES:
            shown[pair] += 1
            prices.append(PublicPrice(price))
    return prices[::-1]


@dataclass(frozen=True)
class Bidding:
    """A round after the bids.

    Attributes
    ----------
    round
        The round.
    wanted
        Buyer -> the purchases that it bids on, in the order of the bundle, each with the bid in
        micro-credits.
    notices
        Invalid bids.
    """

    round: TradingRound
    wanted: Mapping[str, Sequence[tuple[Trial, int]]] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()

    @property
    def requests(self) -> dict[str, list[QuoteRequest]]:
        """Seller -> its quote requests; empty if the pricing rule needs no asks."""
        requests: dict[str, list[QuoteRequest]] = {}
        for key, trial in self._requested():
            requests.setdefault(trial.seller, []).append(self._request(key, trial))
        return requests

    @property
    def public_prices(self) -> list[PublicPrice]:
        """The last prices of past deals, for every seller. A purchase on approval has none."""
        paid = self.round.ledger.last_paid(self.round.state.runs, PRICES_READ)
        return shown_prices((frozenset((deal.buyer, deal.seller)), deal.price) for deal in paid if deal.gain > 0)

    def accept_asks(self, asks: Mapping[str, Sequence[Ask]]) -> Bargain:
        """Accept the sellers' asks, agree on deals with bid ≥ ask, and escrow each price.

        Parameters
        ----------
        asks
            Seller -> its asks. If the pricing rule needs asks, a bid without an ask makes no deal,
            and neither do the incremental purchases after it.

        Notes
        -----
        A purchase beyond the buyer's balance is recorded as void and ends the bundle.
        """
        requested: dict[str, dict[str, str]] = {}
        for key, trial in self._requested():
            requested.setdefault(trial.seller, {})[key] = trial.buyer
        known: dict[str, dict[str, int]] = {}
        notices = []
        for seller in sorted(asks):
            try:
                known[seller] = asked_amounts(requested.get(seller, {}), asks[seller])
            except MarketError as error:
                notices.append(Notice(seller, str(error)))
        wishes = [trial for some in self.wanted.values() for trial, _ in some]
        with self.round.ledger.together(self._deal_id(trial) for trial in wishes):
            deals = {buyer: self._escrowed(buyer, known) for buyer in sorted(self.wanted)}
        return Bargain(self.round, {buyer: some for buyer, some in deals.items() if some}, tuple(notices))

    def _escrowed(self, buyer: str, asks: Mapping[str, Mapping[str, int]]) -> tuple[tuple[Deal, Trial], ...]:
        """Return a buyer's deals, up to the first purchase of its bundle without a deal."""
        found: list[tuple[Deal, Trial]] = []
        for trial, bid in self.wanted[buyer]:
            deal = self._deal(trial, bid, asks.get(trial.seller, {}).get(buyer))
            if deal is None or not settlement.escrow(self.round.ledger, deal):
                break
            found.append((deal, trial))
        return tuple(found)

    def _requested(self) -> Iterable[tuple[str, Trial]]:
        """Yield id and purchase of each quote request, in the order of buyers and sellers."""
        if self.round.terms.rule.asks:
            for buyer in sorted(self.wanted):
                key = partner_id(self.round.number, buyer, self.round.state.pseudonyms)
                for trial, _ in sorted(self.wanted[buyer], key=lambda wish: wish[0].seller):
                    if trial.priced:
                        yield key, trial

    def _request(self, key: str, bought: Trial) -> QuoteRequest:
        """Return a quote request with the information that the disclosure policy allows.

        The policies ``paper`` and ``sharp`` disclose only the buyer's purchased weight. The gain is
        that of the seller's own single purchase from this buyer.
        """
        if self.round.terms.disclosure == "sealed":
            return QuoteRequest(key, bought.layers)
        pair = bought.seller, bought.buyer
        own = next(trial for trial in self.round.trials if (trial.buyer, trial.seller) == pair and not trial.after)
        ratio = 1 + told(own.certificate.ratio - 1)
        return DisclosedQuote(key, bought.layers, own.alpha, bought.alpha, ratio)

    def _deal_id(self, trial: Trial) -> str:
        return deal_id(self.round.run, self.round.number, trial.buyer, trial.seller)

    def _deal(self, trial: Trial, bid: int, ask: int | None) -> Deal | None:
        rule = self.round.terms.rule
        if not trial.priced:
            price: int | None = 0
        else:
            price = None if ask is None and rule.asks else rule.price(bid, ask or 0)
        if price is None:
            return None
        return Deal(
            id=self._deal_id(trial),
            round=self.round.number,
            buyer=trial.buyer,
            seller=trial.seller,
            bid=bid,
            ask=ask or 0,
            price=price,
            gain=self.round.payable(trial),
            lower_bound=told(trial.certificate.lower_bound),
            alpha=trial.alpha,
        )
