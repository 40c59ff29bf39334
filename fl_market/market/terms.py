"""The terms of a market: how the broker aligns, merges, certifies and prices."""

from dataclasses import dataclass

from fl_market.errors import MarketError
from fl_market.gains import GAINS
from fl_market.merging import ALL, GRANULARITIES
from fl_market.merging.methods import MERGE_METHODS, MergeMethod
from fl_market.permutation.methods import ALIGNMENT_METHODS, AlignmentMethod
from fl_market.pricing import PricingRule, parse_rule
from fl_market.protocol import DISCLOSURES


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
        Share of the parameters that a purchase may comprise at most; below 1, the broker picks the best layers or,
        where each row has a weight of its own, the best rows.
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
    fit_steps, fit_learning_rate, fit_batch_size
        Gradient steps on the weights of layers or rows, and the samples that each sees; 0 for all of the fit split.
    class_tolerance
        How much the loss of any class may rise by a purchase: the certificate's upper bound of it must not exceed
        this. 0 for any rise.
    unpaid_deliveries
        Deliveries, one after the other, that a buyer may leave unacknowledged before it loses the right to buy.
    endowment
        Micro-credits that each agent's account opens with.

    Raises
    ------
    MarketError
        If the granularity, the disclosure or the form of the gain is none.
    """

    alignment: str = "weights"
    merge: str = "interpolation"
    granularity: str = "model"
    layers: str = ALL
    layer_budget: float = 1.0
    max_purchases: int = 1
    repair: bool = True
    pricing: str | PricingRule = "nash"
    disclosure: str = "sealed"
    novelty: float = 1e-4
    gain: str = "relative"
    confidence: float = 0.95
    fit_steps: int = 40
    fit_learning_rate: float = 0.1
    fit_batch_size: int = 0
    class_tolerance: float = 0.0
    unpaid_deliveries: int = 3
    endowment: float = 100.0

    def __post_init__(self) -> None:
        """Check what would else pass for parameters that nobody wants."""
        for name, accepted in (("granularity", GRANULARITIES), ("disclosure", DISCLOSURES), ("gain", GAINS)):
            if getattr(self, name) not in accepted:
                raise MarketError(f"{name} cannot be {getattr(self, name)!r}; accepted are {', '.join(accepted)}")

    @property
    def rule(self) -> PricingRule:
        """The pricing rule."""
        return parse_rule(self.pricing) if isinstance(self.pricing, str) else self.pricing

    @property
    def merge_method(self) -> MergeMethod:
        """The merge method."""
        return MERGE_METHODS[self.merge]

    @property
    def alignment_method(self) -> AlignmentMethod:
        """The alignment method."""
        return ALIGNMENT_METHODS[self.alignment]
