"""Merge methods: how a buyer's and an aligned seller's parameters make one model.

A method is one function of the type ``MergeMethod``.
:func:`fl_market.merging.testing.check_merge_method` tests one of your own before a market uses it.
"""

from collections.abc import Callable

from fl_market.merging.interpolation import Alpha, interpolate
from fl_market.parameters import StateDict

MergeMethod = Callable[[StateDict, StateDict, Alpha], StateDict]
"""(buyer, aligned seller, purchased weight) -> the merged model, differentiable in the weight.

At a weight of 0 it is the buyer's model. A tensor that the two share (the same object) is not for
sale, and stays as it is.
"""

MERGE_METHODS: dict[str, MergeMethod] = {"interpolation": interpolate}
"""The methods that a market's option names."""
