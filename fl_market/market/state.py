"""The state of a market between two rounds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fl_market.gains import ErrorBudget, Profile
from fl_market.market.candidates import Fruitless
from fl_market.market.identifiers import Pseudonyms, with_pseudonyms
from fl_market.parameters import StateDict
from fl_market.permutation import Permutation
from fl_market.protocol import Receipt

DELIVERIES_KEPT = 3
"""Number of deliveries to each buyer, and of sold models of each seller, with which offers are
compared."""


@dataclass(frozen=True)
class MarketState:
    """All data on which the next round of a market depends.

    Attributes
    ----------
    round
        Number of the last concluded round; 0 before the first.
    models
        Agent -> the broker's record of its current model.
    profiles
        Agent -> the description of its objective, if it registered one.
    best
        Agent -> its best certified model, from which the gains of its purchases count.
    budget
        The error budget of the run's certificates, with all that agents were told.
    delivered
        Agent -> the last models that it bought.
    sold
        Agent -> the last models of which it sold a part.
    permutations
        Pair of agents -> start of the next search for their permutation.
    fruitless
        Buyer and seller -> trials without a gain in a row, and the round of the last one.
    receipts
        Agent -> receipts that it has not confirmed.
    pseudonyms
        Agent -> its name in messages to other agents, and in the log.
    runs
        Names of the market's runs in the ledger: the first start, then each resumption.
    """

    round: int = 0
    models: Mapping[str, StateDict] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    best: Mapping[str, StateDict] = field(default_factory=dict)
    budget: ErrorBudget = field(default_factory=ErrorBudget)
    delivered: Mapping[str, Sequence[StateDict]] = field(default_factory=dict)
    sold: Mapping[str, Sequence[StateDict]] = field(default_factory=dict)
    permutations: Mapping[tuple[str, str], Permutation] = field(default_factory=dict)
    fruitless: Fruitless = field(default_factory=dict)
    receipts: Mapping[str, Sequence[Receipt]] = field(default_factory=dict)
    pseudonyms: Pseudonyms = field(default_factory=dict)
    runs: Sequence[str] = ()

    def with_models(self, models: Mapping[str, StateDict]) -> "MarketState":
        """Return the state with new records of some agents' models, and a pseudonym for each."""
        return replace(self, models={**self.models, **models}).with_pseudonyms(models)

    def with_best(self, buyer: str, model: StateDict) -> "MarketState":
        """Return the state with a new best certified model of a buyer."""
        return replace(self, best={**self.best, buyer: model})

    def after(self, market_round: int) -> "MarketState":
        """Return the state after a round."""
        return replace(self, round=market_round)

    def with_pseudonyms(self, agents: Iterable[str]) -> "MarketState":
        """Return the state in which all given agents have a pseudonym."""
        return replace(self, pseudonyms=with_pseudonyms(self.pseudonyms, agents))

    def with_delivery(self, buyer: str, model: StateDict) -> "MarketState":
        """Return the state after a buyer has paid for a model."""
        kept = [*self.delivered.get(buyer, ()), model][-DELIVERIES_KEPT:]
        return replace(self, delivered={**self.delivered, buyer: kept})

    def with_sales(self, sellers: Iterable[str]) -> "MarketState":
        """Return the state after some agents were paid for parts of their models of this round."""
        kept = {
            agent: [*self.sold.get(agent, ()), self.models[agent]][-DELIVERIES_KEPT:]
            for agent in sellers
            if agent in self.models  # a market on precomputed losses has none
        }
        return replace(self, sold={**self.sold, **kept})

    def with_receipts(self, receipts: Mapping[str, Sequence[Receipt]]) -> "MarketState":
        """Return the state with more receipts that are to be confirmed."""
        added = {agent: [*self.receipts.get(agent, ()), *some] for agent, some in receipts.items()}
        return replace(self, receipts={**self.receipts, **added})

    def without_receipts(self, agents: Iterable[str]) -> "MarketState":
        """Return the state after some agents have confirmed their receipts."""
        confirmed = set(agents)
        left = {agent: some for agent, some in self.receipts.items() if agent not in confirmed}
        return replace(self, receipts=left)
