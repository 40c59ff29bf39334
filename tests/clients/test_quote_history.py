from clients.quote_history import REMEMBERED, QuoteHistory
from fl_market.pricing import Empirical, myerson_price, nash, split
from fl_market.pricing import ask as ask_rule
from fl_market.protocol import Ask, PublicPrice, Receipt


def quoted(history, rounds, asked, sold):
    """Add quotes of some rounds at one ask, each sold at a price or declined (None)."""
    for number in rounds:
        receipts = [] if sold is None else [Receipt(f"{number}/x", "sold", "x", sold)]
        history = history.with_asks([Ask(f"{number}/x", asked)]).resolved(receipts)
    return history


def test_a_seller_learns_from_sales_and_from_declined_quotes():
    history = quoted(QuoteHistory(), range(4), 100_000, 150_000)
    assert history.learned_prior(nash, 1.0) is None, "too few to trust"
    helped = history.learned_prior(nash, 1.0, [PublicPrice(50_000), PublicPrice(0)])
    assert helped == Empirical([0.2] * 4, accepted=[0.0, 0.05]), "until they are enough, public prices help"
    history = quoted(history, range(4, 8), 100_000, 150_000)
    history = quoted(history, range(8, 10), 300_000, None)
    assert history.learned_prior(nash, 1.0) == Empirical([0.2] * 8, declined=[0.3] * 2)
    assert history.learned_prior(nash, 0.0) is None, "if a gain is worth nothing, asks say nothing of gains"
    assert history.learned_prior(nash, 2.0) == Empirical([0.1] * 8, declined=[0.15] * 2)
    # a price that is the ask tells no more than that the bid was at least as high
    assert history.learned_prior(ask_rule, 1.0) == Empirical(accepted=[0.1] * 8, declined=[0.3] * 2)


def test_a_pending_quote_teaches_nothing_and_a_receipt_may_come_late():
    history = QuoteHistory().with_asks([Ask(f"{number}", 100_000) for number in range(6)])
    assert history.learned_prior(nash, 1.0) is None
    declined = history.resolved([])
    sold = declined.resolved([Receipt("0", "sold", "x", 150_000)])
    assert (sold.prices[0], sold.prices[1:]) == (150_000, declined.prices[1:])
    assert sold.resolved([]) == sold


def test_the_last_quotes_are_kept():
    asks = [Ask(f"{number}", number) for number in range(REMEMBERED + 3)]
    assert QuoteHistory().with_asks(asks).asks == tuple(range(3, REMEMBERED + 3))
    assert QuoteHistory().with_asks(asks[:1]).with_asks(asks[1:]) == QuoteHistory().with_asks(asks)


def test_the_bid_that_a_price_reveals():
    for rule in (nash, split(0.25), split(1.0)):
        assert rule.reveals(rule.price(900_000, 100_000), 100_000) == 900_000
    assert ask_rule.reveals is None


HONEST = [PublicPrice(amount) for amount in range(150_000, 350_000, 10_000)]


def test_wash_trades_do_not_move_a_newcomers_prior():
    """One price of 50 credits among twenty honest ones once moved the ask from 0.245 to 50."""
    honest = QuoteHistory().learned_prior(nash, 1.0, HONEST)
    washed = QuoteHistory().learned_prior(nash, 1.0, [*HONEST, *[PublicPrice(50_000_000)] * 5])
    assert washed == honest
    assert myerson_price(washed, 0.0) == myerson_price(honest, 0.0) < 0.4


def test_a_market_of_high_prices_is_no_market_of_wash_trades():
    high = [PublicPrice(1000 * price.amount) for price in HONEST]
    assert len(QuoteHistory().learned_prior(nash, 1.0, high).accepted) == len(HONEST)
