"""Using purchased parameters (paper, sections 3.2 and 3.3): interpolation, and how much of a seller to buy."""

from fl_market.merging.interpolation import Alpha, interpolate
from fl_market.merging.purchased_weight import GRANULARITIES, Merge, fit_weights, mean_alpha
from fl_market.merging.repair import Repair

__all__ = ["GRANULARITIES", "Alpha", "Merge", "Repair", "fit_weights", "interpolate", "mean_alpha"]
