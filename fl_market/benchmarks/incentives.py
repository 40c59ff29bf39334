"""``fl-market bench incentives``: what dishonest behaviour earns under each pricing rule.

A market of twenty agents is played with the shipped rules, priors and quote histories, and without
networks: a gain is a random number. In each round every agent trains, which costs it something and
makes its parameters worth buying. It is offered purchases from a few sellers, bids on the best one,
and sellers ask the Myerson price under the prior that they have learned from their quotes and from
the public prices.

Some agents then leave honesty, with the same random numbers. What they earn more, or less, is the
incentive. All other agents stay honest, so that the numbers are no equilibrium.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clients.quote_history import QuoteHistory
from fl_market.experiments.outcomes import spread
from fl_market.market.round import shown_prices
from fl_market.pricing import CREDIT, PricingRule, Uniform, micro_credits, myerson_price, parse_rule
from fl_market.protocol import Ask, PublicPrice, Receipt
from fl_market.reports.curves import new_figure, save_figure
from fl_market.reports.table import summary_table
from fl_market.run_folder import claim_file, write_json
from fl_market.seeds import numpy_generator

AGENTS, ROUNDS, OFFERS = 20, 40, 3
"""Agents, rounds, and sellers that each buyer is offered in a round."""
RULES = ("free", "ask", "nash", "split(0.25)", "posted(0.25)")
COST_OF_SALE, COST_OF_TRAINING = 0.02, 0.05
"""Credits, where a gain of 1 is worth 0.5 to 1.5 credits to a buyer."""
PRIOR = Uniform(0.0, 1.0)
WASH_PRICE = 50 * CREDIT

Report = Callable[[str], None]


@dataclass(frozen=True)
class Behaviour:
    """How some agents behave; the default is honest.

    Attributes
    ----------
    agents
        Number of agents that behave so, the first ones; their earnings are measured.
    bid, ask
        Factors of the honest bid, and of the honest ask.
    trains
        Whether they train: otherwise their parameters are worth nothing to others.
    quality
        Share of what its parameters could give that a seller offers.
    echoes
        Further names of each, which bid a tenth of their value on every offer and never pay.
    washes
        Whether they buy from each other at an absurd price in every round.
    """

    agents: int = 1
    bid: float = 1.0
    ask: float = 1.0
    trains: bool = True
    quality: float = 1.0
    echoes: int = 0
    washes: bool = False


HONEST = Behaviour()
BEHAVIOURS: dict[str, Behaviour] = {
    "bids 90 % of its value": Behaviour(bid=0.9),
    "bids 70 %": Behaviour(bid=0.7),
    "bids 50 %": Behaviour(bid=0.5),
    "asks 125 % of its price": Behaviour(ask=1.25),
    "asks 75 %": Behaviour(ask=0.75),
    "sells half of its quality": Behaviour(quality=0.5),
    "does not train": Behaviour(trains=False),
    "has 3 more names, which bid low": Behaviour(echoes=3),
    "5 agents all bid 50 %": Behaviour(agents=5, bid=0.5),
    "2 agents trade at absurd prices": Behaviour(agents=2, washes=True),
}
"""What agents do in place of being honest."""


@dataclass
class _Seller:
    """An agent's quotes, and what it would ask in this round."""

    quotes: QuoteHistory = field(default_factory=QuoteHistory)
    ask: int = 0


def incentives(out_dir: str, *, runs: int = 10, seed: int = 0, overwrite: bool = False, report: Report = print) -> str:
    """Play the markets; write ``incentives.json`` and a picture, return a table.

    Parameters
    ----------
    out_dir
        Folder of the report.
    runs
        Markets of each rule and behaviour, each with random numbers of its own.
    seed
        Seed of the random numbers.
    overwrite
        Whether an earlier report may be overwritten.
    report
        Called with a line for each rule.

    Raises
    ------
    MarketError
        If the report exists and may not be overwritten.
    """
    folder = claim_file(Path(out_dir), "incentives.json", overwrite)
    document: dict[str, dict[str, dict[str, float]]] = {}
    for text in RULES:
        rule = parse_rule(text)
        honest = [play(rule, HONEST, numpy_generator(seed, "incentives", run)) for run in range(runs)]
        cells = {"honest": mean_and_error([found.earned(agents=AGENTS) for found in honest])}
        cells["surplus traded"] = mean_and_error([found.efficiency for found in honest])
        for name, behaviour in BEHAVIOURS.items():
            other = [play(rule, behaviour, numpy_generator(seed, "incentives", run)) for run in range(runs)]
            more = [
                dishonest.earned(behaviour.agents) - base.earned(behaviour.agents)
                for dishonest, base in zip(other, honest, strict=True)
            ]
            cells[name] = mean_and_error(more)
        document[text] = cells
        report(f"{text}: {len(BEHAVIOURS)} behaviours in {runs} markets")
    write_json(folder / "incentives.json", {"runs": runs, "seed": seed, "credits a round": document})
    _draw(folder / "incentives.png", document)
    rows = [
        (name, *(f"{cells[name]['mean']:+.3f} ± {cells[name]['error']:.3f}" for cells in document.values()))
        for name in BEHAVIOURS
    ]
    head = [
        ("honest: earns", *(f"{cells['honest']['mean']:.3f}" for cells in document.values())),
        ("honest: surplus traded", *(f"{100 * cells['surplus traded']['mean']:.0f} %" for cells in document.values())),
    ]
    title = (
        "Credits that an agent earns a round, and what it earns more if it alone is not honest: mean and standard "
        f"error of {runs} markets of {AGENTS} agents and {ROUNDS} rounds"
    )
    return summary_table(title, ("", *RULES), [*head, *rows])


def mean_and_error(values: Sequence[float]) -> dict[str, float]:
    """Return the mean and its standard error.

    Examples
    --------
    >>> mean_and_error([1.0, 3.0])["mean"], round(mean_and_error([1.0, 3.0])["error"], 6)
    (2.0, 1.0)
    """
    found = spread(values)
    return {"mean": found["mean"], "error": found["std"] / len(values) ** 0.5}


@dataclass(frozen=True)
class Played:
    """The outcome of one market.

    Attributes
    ----------
    earnings
        Credits of each agent in each round: what its purchases are worth to it and its sales
        brought, less what it paid and its costs; shape (rounds, agents).
    possible
        The most that all could have earned together by trade.
    traded
        What they earned together by trade.
    """

    earnings: np.ndarray
    possible: float
    traded: float

    def earned(self, agents: int) -> float:
        """Return the mean credits a round of the first agents."""
        return float(self.earnings[:, :agents].mean())

    @property
    def efficiency(self) -> float:
        """Share of the possible surplus."""
        return self.traded / self.possible


def play(rule: PricingRule, behaviour: Behaviour, dice: np.random.Generator) -> Played:
    """Play one market in which the first agents behave in some way, and all others honestly.

    Parameters
    ----------
    rule
        The pricing rule.
    behaviour
        Of the first agents.
    dice
        Random numbers, of which each behaviour needs the same ones.
    """
    worth = dice.uniform(0.5, 1.5, AGENTS)
    sellers = [_Seller() for _ in range(AGENTS)]
    paid: list[tuple[frozenset[int], int]] = []
    earnings = np.zeros((ROUNDS, AGENTS))
    possible = traded = 0.0
    chosen = range(behaviour.agents)
    for number in range(ROUNDS):
        gains = dice.uniform(0.0, 1.0, (AGENTS, AGENTS)) * dice.uniform(0.0, 1.0, (AGENTS, 1))
        order = dice.random((AGENTS, AGENTS))
        earnings[number] -= COST_OF_TRAINING
        for agent in chosen:
            gains[:, agent] *= behaviour.quality * behaviour.trains
            earnings[number, agent] += COST_OF_TRAINING * (not behaviour.trains)
        public = shown_prices(reversed(paid))
        for index, seller in enumerate(sellers):
            factor = behaviour.ask if index in chosen else 1.0
            seller.ask = micro_credits(factor * _price(seller.quotes, rule, public))
        asked: dict[int, list[tuple[int, int | None]]] = {}
        for buyer in range(AGENTS):
            others = [other for other in np.argsort(order[buyer]) if other != buyer][:OFFERS]
            best = int(max(others, key=lambda other: gains[buyer, other]))
            value = worth[buyer] * gains[buyer, best]
            possible += max(0.0, value - COST_OF_SALE)
            if value <= 0:
                continue
            bid = micro_credits(value * (behaviour.bid if buyer in chosen else 1.0))
            price = rule.price(bid, sellers[best].ask if rule.asks else 0)
            asked.setdefault(best, []).append((buyer, price))
            if price is not None:
                paid.append((frozenset((buyer, best)), price))
                earnings[number, buyer] += value - price / CREDIT
                earnings[number, best] += price / CREDIT - COST_OF_SALE
                traded += value - COST_OF_SALE
            if buyer in chosen:  # its other names are buyers of their own, with offers of their own
                low = rule.price(bid // 10, sellers[best].ask) if rule.asks else 0
                asked[best] += [(-1, None)] * (behaviour.echoes if low is None else 0)
        if behaviour.washes:
            paid.append((frozenset(chosen), WASH_PRICE))
        for index, quotes in asked.items():
            sellers[index].quotes = _after(sellers[index], number, quotes)
    return Played(earnings, possible, traded)


def _price(quotes: QuoteHistory, rule: PricingRule, public: Sequence[PublicPrice]) -> float:
    """Return a seller's honest ask in credits: the Myerson price under what it has learned."""
    if not rule.asks:
        return 0.0
    if rule.name.startswith("posted"):  # the price is not the seller's to set, and its cost is truthful
        return COST_OF_SALE
    price = myerson_price(quotes.learned_prior(rule, 1.0, public) or PRIOR, COST_OF_SALE)
    return min(price, 1000.0)  # no observed value exceeds the cost: no sale


def _after(seller: _Seller, number: int, quotes: Sequence[tuple[int, int | None]]) -> QuoteHistory:
    """Return a seller's history after the outcomes of its quotes of a round."""
    asks = [Ask(f"{number}/{place}", seller.ask) for place in range(len(quotes))]
    sold = [
        Receipt(ask.quote, "sold", "", price) for ask, (_, price) in zip(asks, quotes, strict=True) if price is not None
    ]
    return seller.quotes.with_asks(asks).resolved(sold)


def _draw(path: Path, document: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    figure = new_figure(10, 5)
    axes = figure.subplots()
    width = 0.8 / len(document)
    for place, (rule, cells) in enumerate(document.items()):
        axes.barh(
            [row + (place - len(document) / 2) * width for row in range(len(BEHAVIOURS))],
            [cells[name]["mean"] for name in BEHAVIOURS],
            height=width,
            xerr=[2 * cells[name]["error"] for name in BEHAVIOURS],
            label=rule,
        )
    axes.set_yticks(range(len(BEHAVIOURS)), list(BEHAVIOURS))
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="credits a round more than honestly (two standard errors)")
    axes.legend(fontsize="small")
    save_figure(figure, path)
