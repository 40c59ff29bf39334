"""Merge methods (stub until the merge)."""

from collections.abc import Callable

from fl_market.merging.interpolation import Alpha, interpolate
from fl_market.parameters import StateDict

MergeMethod = Callable[[StateDict, StateDict, Alpha], StateDict]
MERGE_METHODS: dict[str, MergeMethod] = {"interpolation": interpolate}
