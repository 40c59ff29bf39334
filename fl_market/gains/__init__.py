"""Gain-from-trade (paper, section 3.3): losses, splits of the broker's data, certificates."""

from fl_market.choices import GAINS
from fl_market.gains.bounds import mean_exceeds, mean_lower_bound
from fl_market.gains.budget import Counted, ErrorBudget, near_weight, round_share, value_weight
from fl_market.gains.certificate import Certificate, certify, certify_increment, class_rises, harms, told
from fl_market.gains.losses import Loss, ModelLoss, batch_size_for
from fl_market.gains.objectives import (
    Objective,
    Profile,
    WeightedLoss,
    check_validation,
    weighted_objective,
)
from fl_market.gains.scores import Scores, SplitScores
from fl_market.gains.splits import split_in_halves

__all__ = [
    "GAINS",
    "Certificate",
    "Counted",
    "ErrorBudget",
    "Loss",
    "ModelLoss",
    "Objective",
    "Profile",
    "Scores",
    "SplitScores",
    "WeightedLoss",
    "batch_size_for",
    "certify",
    "certify_increment",
    "check_validation",
    "class_rises",
    "harms",
    "mean_exceeds",
    "mean_lower_bound",
    "near_weight",
    "round_share",
    "split_in_halves",
    "told",
    "value_weight",
    "weighted_objective",
]
