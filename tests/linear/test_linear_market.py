"""The linear market at a small size; ``fl-market experiment`` runs the published size."""

import numpy as np
import pytest

from fl_market.errors import MarketError
from fl_market.linear import LinearMarket, Purchase
from fl_market.linear.convergence import SmoothProblem
from fl_market.linear.prices import LearningSeller, paper_ask, price_history, sharp_ask

SMALL = LinearMarket(dimension=60, samples=(30, 48), broker_samples=600, test_samples=300, rounds=60)


def test_both_agents_gain_from_the_market():
    improvements = np.array([SMALL.run(seed).improvement for seed in range(5)])
    assert (improvements.mean(0) > (20, 10)).all(), improvements


def test_the_same_seed_gives_the_same_run():
    first, again, other = (SMALL.run(seed) for seed in (0, 0, 1))
    assert first.purchases == again.purchases
    assert np.array_equal(first.market_loss, again.market_loss)
    assert not np.array_equal(first.market_loss, other.market_loss)


def test_a_purchase_lowers_the_broker_s_loss_and_siloed_twins_never_trade():
    run = SMALL.run(2)
    bought = [offer for offers in run.purchases for offer in offers if offer.bought]
    assert bought
    assert all(offer.gain > 1 and 0 < offer.weight <= 1 for offer in bought)
    # without a market the twins' losses are those of plain gradient descent
    alone = LinearMarket(**{**vars(SMALL), "confidence": 1 - 1e-12}).run(2)
    assert np.allclose(alone.siloed_loss, run.siloed_loss)


def test_the_benefit_shrinks_with_the_distance_of_the_tasks():
    means = [
        np.mean([LinearMarket(**{**vars(SMALL), "distance": distance}).run(seed).improvement[0] for seed in range(4)])
        for distance in (0.0, 4.0, 12.0)
    ]
    assert means[0] > means[1] > means[2] >= -1e-9


def test_information_of_sellers_closes_the_gap_of_prices():
    gaps = {kind: [] for kind in ("paper", "sharp", "learned")}
    for seed in range(5):
        run = SMALL.run(seed)
        for buyer in range(2):
            optimum = price_history(run, buyer, "optimum")
            for kind, found in gaps.items():
                found.append(np.abs(price_history(run, buyer, kind) - optimum)[-30:].mean())
    assert np.mean(gaps["sharp"]) <= 0.1 * np.mean(gaps["paper"])
    assert np.mean(gaps["learned"]) <= 0.5 * np.mean(gaps["paper"])


def test_asks_use_no_more_than_is_disclosed():
    """The buyer's gain itself makes no difference to any ask."""
    own = Purchase(0.6, 1.3, True)
    for ask in (paper_ask, sharp_ask):
        assert ask(own, Purchase(0.4, 1.1, True)) == ask(own, Purchase(0.4, 9.9, True))
    assert sharp_ask(own, Purchase(0.4, 1.1, True)) >= 1
    assert paper_ask(own, Purchase(0.4, 1.1, True)) < 1


def test_a_learning_seller_raises_its_ask_with_the_bids_and_lowers_it_when_declined():
    seller = LearningSeller()
    assert seller.ask() == 1
    for _ in range(20):
        ask = seller.ask()
        seller.learn(ask, (1.5 + ask) / 2)
    assert seller.ask() == pytest.approx(1.5)
    for _ in range(20):
        seller.learn(seller.ask(), None)
    assert seller.ask() == 1


def test_theorem_5_1_holds():
    for seed in range(5):
        found = SmoothProblem().run(seed)
        assert all(rounds <= bound for rounds, bound in zip(found.traded, found.traded_bound, strict=True))
        assert all(rounds <= bound for rounds, bound in zip(found.siloed, found.siloed_bound, strict=True))
        assert all(traded <= siloed for traded, siloed in zip(found.traded, found.siloed, strict=True))
        assert found.traded_bound[0] < found.siloed_bound[0], "the gain shortens the bound while it lasts"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dimension": 0}, "dimension must be at least 1; got 0"),
        ({"broker_samples": 3}, "broker_samples must be at least 4; got 3"),
        ({"samples": (5, 0)}, "samples must be at least 1 for both agents"),
        ({"noise": (0.0, -1.0)}, "noise must be at least 0 for both agents"),
        ({"distance": float("nan")}, "distance must be at least 0; got nan"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0; got 0.0"),
    ],
)
def test_an_invalid_market_is_refused(wrong, message):
    with pytest.raises(MarketError, match=message):
        LinearMarket(**wrong)
