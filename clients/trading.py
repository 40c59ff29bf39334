"""An agent's part in the trades of a round: its bids and its asks."""

from collections.abc import Sequence
from dataclasses import replace

from clients.agent import Agent
from fl_market.catalogue import find_valuation
from fl_market.configuration import Configuration
from fl_market.pricing import Prior, micro_credits, parse_prior
from fl_market.protocol import Ask, Bid, DisclosedQuote, Offer, PublicPrice, QuoteRequest
from fl_market.valuation import Valuation, decide, value, value_disclosed


def bid(agent: Agent, offers: Sequence[Offer]) -> list[Bid]:
    """Return the agent's bids, within its limits for one purchase and for all of them together.

    With ``spending-rounds``, an equal part of the limit for all purchases is added in each of them.

    Raises
    ------
    MarketError
        If the valuation of an offer is no amount that can be paid.
    """
    options = agent.options
    most_each = micro_credits(options.agent.purchase_limit) if options.agent.purchase_limit else None
    most_in_all = None
    if options.agent.spending_limit:
        limit, pace = micro_credits(options.agent.spending_limit), options.agent.spending_rounds
        if pace and offers:
            limit = limit * min(offers[0].round, pace) // pace
        most_in_all = max(0, limit - agent.spent)
    return decide(offers, _valuation(options), most_each, most_in_all)


def ask(agent: Agent, requests: Sequence[QuoteRequest], public: Sequence[PublicPrice]) -> list[Ask]:
    """Return the agent's asks under its prior, and remember them.

    Parameters
    ----------
    agent
        The seller.
    requests
        Sealed quote requests.
    public
        The public prices of past deals.

    Raises
    ------
    MarketError
        If no price is best under the prior.
    """
    options = agent.options
    return _reserved(agent, value(requests, _prior(agent, public), options.agent.cost, options.agent.bid_scale))


def ask_disclosed(agent: Agent, requests: Sequence[DisclosedQuote]) -> list[Ask]:
    """Return the agent's asks on disclosed quote requests, and remember them.

    Raises
    ------
    MarketError
        If a disclosed number is out of its range.
    """
    options = agent.options
    own = options.agent
    return _reserved(agent, value_disclosed(requests, options.market.disclosure, own.cost, own.bid_scale))


def _valuation(options: Configuration) -> Valuation:
    valuation: Valuation = find_valuation(options.agent.valuation, options.agent.bid_scale)
    return valuation


def _prior(agent: Agent, public: Sequence[PublicPrice]) -> Prior:
    """Return the learned prior, if the agent wants one and trades are enough; else its own."""
    options = agent.options
    learned = None
    if options.agent.learn_prior:
        learned = agent.state.quotes.learned_prior(options.market.rule, options.agent.bid_scale, public)
    return learned or parse_prior(options.agent.prior)


def _reserved(agent: Agent, asks: Sequence[Ask]) -> list[Ask]:
    """Return the asks, each at least the reserve price, and remember them."""
    reserve = micro_credits(agent.options.agent.reserve_price)
    raised = [replace(ask, amount=max(ask.amount, reserve)) for ask in asks]
    agent.state.quotes = agent.state.quotes.with_asks(raised)
    return raised
