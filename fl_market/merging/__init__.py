"""Using purchased parameters (paper, sections 3.2 and 3.3): merging, and the purchased weight."""

from fl_market.choices import GRANULARITIES
from fl_market.merging.descent import hold_out
from fl_market.merging.fine_tuning import fine_tune
from fl_market.merging.fine_weights import STRENGTHS, predictions_of_both, shrunk, simplest_as_good
from fl_market.merging.interpolation import Alpha, Merge, interpolate
from fl_market.merging.layers import ALL, best_layers, layer_of, layer_sizes, layers_of, only_layers, select_layers
from fl_market.merging.methods import MERGE_METHODS, MergeMethod, MergeOnInputs
from fl_market.merging.norm_statistics import NormStatistics
from fl_market.merging.purchased_weight import fit_weights, mean_alpha
from fl_market.merging.repair import Repair, repair_for
from fl_market.merging.several_sellers import fit_simplex, merge_many

__all__ = [
    "ALL",
    "GRANULARITIES",
    "MERGE_METHODS",
    "STRENGTHS",
    "Alpha",
    "Merge",
    "MergeMethod",
    "MergeOnInputs",
    "NormStatistics",
    "Repair",
    "best_layers",
    "fine_tune",
    "fit_simplex",
    "fit_weights",
    "hold_out",
    "interpolate",
    "layer_of",
    "layer_sizes",
    "layers_of",
    "mean_alpha",
    "merge_many",
    "only_layers",
    "predictions_of_both",
    "repair_for",
    "select_layers",
    "shrunk",
    "simplest_as_good",
]
