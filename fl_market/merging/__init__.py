"""Using purchased parameters (paper, sections 3.2 and 3.3): interpolation, and how much of a seller to buy."""

from fl_market.merging.interpolation import Alpha, Merge, interpolate
from fl_market.merging.norm_statistics import NormStatistics
from fl_market.merging.purchased_weight import GRANULARITIES, fit_weights, mean_alpha
from fl_market.merging.repair import Repair, repair_for

__all__ = [
    "GRANULARITIES",
    "Alpha",
    "Merge",
    "NormStatistics",
    "Repair",
    "fit_weights",
    "interpolate",
    "mean_alpha",
    "repair_for",
]
