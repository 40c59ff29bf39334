"""Alignment methods (stub until the merge)."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from fl_market.parameters import StateDict
from fl_market.permutation.matching import match
from fl_market.permutation.spec import Permutation, PermutationSpec, identity_permutation


@dataclass(frozen=True)
class AlignmentContext:
    """Context."""

    seed: int
    start: Permutation | None
    model: nn.Module | None
    inputs: Tensor | None


AlignmentMethod = Callable[[PermutationSpec, StateDict, StateDict, AlignmentContext], Permutation]
ALIGNMENT_METHODS: dict[str, AlignmentMethod] = {
    "weights": lambda spec, one, other, context: match(spec, one, other, seed=context.seed, start=context.start),
    "none": lambda spec, one, other, context: identity_permutation(spec),
}
