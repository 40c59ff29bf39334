"""Gain-from-trade (paper, section 3.3): losses, splits of the broker's data, certificates."""

from fl_market.choices import GAINS
from fl_market.gains.bounds import mean_exceeds, mean_lower_bound
from fl_market.gains.budget import Chain, ErrorBudget, round_share
from fl_market.gains.certificate import Certificate, certify, class_rises
from fl_market.gains.losses import Loss, ModelLoss, batch_size_for
from fl_market.gains.objectives import (
    Objective,
    Profile,
    WeightedLoss,
    check_validation,
    weighted_objective,
    with_labels,
)
from fl_market.gains.splits import split_in_halves

__all__ = [
    "GAINS",
    "Certificate",
    "Chain",
    "ErrorBudget",
    "Loss",
    "ModelLoss",
    "Objective",
    "Profile",
    "WeightedLoss",
    "batch_size_for",
    "certify",
    "check_validation",
    "class_rises",
    "mean_exceeds",
    "mean_lower_bound",
    "round_share",
    "split_in_halves",
    "weighted_objective",
    "with_labels",
]
