"""The terms of a market: how the broker aligns, merges, certifies and prices."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl_market.catalogue import ALIGNMENT_METHOD, MERGE_METHOD, PRICING_RULE
from fl_market.choices import CERTIFICATES, GAINS, GRANULARITIES, RESTORATIONS, SELECTIONS, SERVICES
from fl_market.errors import OptionError
from fl_market.options import check_options, option
from fl_market.plugins import find
from fl_market.protocol import DISCLOSURES

if TYPE_CHECKING:  # the command line reads these declarations, and must not import torch or scipy
    from fl_market.merging.methods import MergeMethod, MergeOnInputs
    from fl_market.permutation.methods import AlignmentMethod
    from fl_market.pricing.rules import PricingRule


@dataclass(frozen=True)
class Terms:
    """How the broker aligns, merges, certifies and prices.

    Raises
    ------
    OptionError
        If a value is outside its range or choices, or names no plug-in.
    """

    layers: str = option("all", "layers for sale: all, or indices and name patterns separated by commas")
    layer_budget: float = option(
        1.0,
        "highest share of the parameters in one purchase; below 1, the broker selects the best layers",
        above=0,
        maximum=1,
    )
    max_purchases: int = option(1, "number of sellers that a buyer may buy from in one round", minimum=1)
    candidates: int = option(
        4, "sellers that the broker tries for each buyer in a round, the most promising ones; 0 for all", minimum=0
    )
    alignment: "str | AlignmentMethod" = option(
        "weights", "method that matches the seller's units to the buyer's before the merge", kind=ALIGNMENT_METHOD
    )
    merge: "str | MergeMethod | MergeOnInputs" = option(
        "interpolation", "method that merges the seller's model into the buyer's", kind=MERGE_METHOD
    )
    granularity: str = "model"
    repair: bool = option(True, "restore the merged model's activation statistics")
    fit_steps: int = option(40, "gradient steps that fit the purchased weights of layers or rows", minimum=0)
    fit_learning_rate: float = option(0.1, "learning rate of the --fit-steps", above=0)
    fit_batch_size: int = option(
        0, "samples in each of the --fit-steps, and in the search for a single purchased weight; 0 for all", minimum=0
    )
    selection: str = option(
        "patient",
        "choice of purchased weights: near an equal share, and with as little use of labels, as is no worse "
        "than the best (patient), or with the least loss of this round (greedy, as published)",
        choices=SELECTIONS,
    )
    gain: str = option(
        "relative",
        "gain-from-trade: the reduction of the score, relative to the score before or as a difference",
        choices=GAINS,
    )
    certificate: str = option(
        "run",
        "scope of the certificates' confidence: all purchases of the run, or each trial by itself; published for "
        "the gain over the buyer's model as it is",
        choices=CERTIFICATES,
    )
    confidence: float = option(0.95, "confidence level of the certified gain's lower bound", above=0, below=1)
    tolerance: float = option(
        0.02,
        "highest rise of a buyer's loss (as a share of it) and of its share of errors that a purchase may cause",
        minimum=0,
    )
    service: str = option(
        "tune",
        "what the broker does free of charge, with or without a seller: --fit-steps gradient steps on its fit "
        "split (tune), or nothing",
        choices=SERVICES,
    )
    tuning_learning_rate: float = option(0.001, "learning rate of the broker's gradient steps on models", above=0)
    approval: bool = option(
        True,
        "deliver merged models without a certified gain over the buyer's best model so far on approval, without "
        "a price, if they are certified to gain over all that the broker can do without the seller",
    )
    restore: str = option(
        "last",
        "rounds after which a buyer whose model is certified worse than its best one gets that one back, free",
        choices=RESTORATIONS,
    )
    alpha_limit: float = option(
        1.0, "highest purchased weight: the most that a seller's parameters can change a buyer's", above=0, maximum=1
    )
    withhold_alpha: bool = option(False, "keep the purchased weight from the buyer, whose offers show 0 in its place")
    class_tolerance: float = option(
        0.0, "highest rise of any class's loss that a purchase may cause; 0 for no limit", minimum=0
    )
    novelty: float = option(
        0.002,
        "least distance of a seller's parameters from every model that was delivered, sold or offered, as a share "
        "of that model's norm; 0 for no limit",
        minimum=0,
    )
    resemblance: float = option(
        0.9997,
        "highest correlation of a seller's outputs, beside the class, with those of every such model; 1 for no limit",
        minimum=0,
        maximum=1,
    )
    trigger_scan: float = option(
        0.0,
        "least size of the trigger that turns inputs into one class, as a share of the median class's; a model with a "
        "smaller one is not sold. 0 for no scan, 0.3 is a good value",
        minimum=0,
        below=1,
    )
    pricing: "str | PricingRule" = option("nash", "pricing rule of the priced arms", kind=PRICING_RULE)
    disclosure: str = option(
        "sealed",
        "information that sellers receive about a buyer: none (sealed), or the inputs of the bounds of "
        "Theorem 4.1 (paper) or of sharp bounds (sharp)",
        choices=DISCLOSURES,
    )
    endowment: float = option(
        100.0, "credits in each agent's new account", minimum=0, check="fl_market.pricing.money:micro_credits"
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.granularity not in GRANULARITIES:
            raise OptionError(f"granularity must be one of {', '.join(GRANULARITIES)}; got {self.granularity!r}")
        if self.disclosure != "sealed" and self.gain != "relative":
            raise OptionError(f"gain must be relative with disclosure {self.disclosure}; got {self.gain!r}")

    @property
    def rule(self) -> "PricingRule":
        """The pricing rule that ``pricing`` is or names."""
        from fl_market.pricing.rules import parse_rule

        return parse_rule(self.pricing) if isinstance(self.pricing, str) else self.pricing

    @property
    def alignment_method(self) -> "AlignmentMethod":
        """The alignment method that ``alignment`` is or names."""
        method: AlignmentMethod = (
            find(ALIGNMENT_METHOD, self.alignment) if isinstance(self.alignment, str) else self.alignment
        )
        return method

    @property
    def merge_method(self) -> "MergeMethod | MergeOnInputs":
        """The merge method that ``merge`` is or names."""
        method: MergeMethod | MergeOnInputs = (
            find(MERGE_METHOD, self.merge) if isinstance(self.merge, str) else self.merge
        )
        return method
