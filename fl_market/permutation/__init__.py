"""Alignment (paper, section 3.2, "Using Purchased Parameters"): permutation specs, matching."""

from fl_market.permutation.derivation import derive_spec
from fl_market.permutation.matching import match, match_many, objective
from fl_market.permutation.methods import ALIGNMENT_METHODS, AlignmentContext, AlignmentMethod
from fl_market.permutation.spec import (
    AxisUse,
    Group,
    Inside,
    Permutation,
    PermutationSpec,
    apply_permutation,
    identity_permutation,
    invert,
    random_permutation,
)

__all__ = [
    "ALIGNMENT_METHODS",
    "AlignmentContext",
    "AlignmentMethod",
    "AxisUse",
    "Group",
    "Inside",
    "Permutation",
    "PermutationSpec",
    "apply_permutation",
    "derive_spec",
    "identity_permutation",
    "invert",
    "match",
    "match_many",
    "objective",
    "random_permutation",
]
