"""Merge methods: how a buyer's and an aligned seller's parameters make one model.

A method is one function of the type ``MergeMethod``, or a ``MergeOnInputs`` if it needs to see what
the models do.
:func:`fl_market.merging.testing.check_merge_method` tests one of your own before a market uses it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from fl_market.merging.interpolation import Alpha, Merge, interpolate
from fl_market.merging.regression_mean import regression_mean
from fl_market.parameters import StateDict

MergeMethod = Callable[[StateDict, StateDict, Alpha], StateDict]
"""(buyer, aligned seller, purchased weight) -> the merged model, differentiable in the weight.

At a weight of 0 it is the buyer's model. A tensor that the two share (the same object) is not for
sale, and stays as it is.
"""


@dataclass(frozen=True)
class MergeOnInputs:
    """A method that prepares a merge on unlabelled inputs, for one purchased weight of the model.

    Attributes
    ----------
    prepare
        (buyer, aligned seller, architecture, inputs) -> the merge as a function of the weight.
    """

    prepare: Callable[[StateDict, StateDict, nn.Module, Tensor], Merge]

    def __call__(self, own: StateDict, other: StateDict, model: nn.Module, inputs: Tensor) -> Merge:
        """Prepare a merge."""
        return self.prepare(own, other, model, inputs)


MERGE_METHODS: dict[str, MergeMethod | MergeOnInputs] = {
    "interpolation": interpolate,
    "regression-mean": MergeOnInputs(regression_mean),
}
"""The methods that a market's option names."""
