"""A user-defined alignment method that orders units by their norms.

    fl-market compare --alignment examples/own_alignment_method.py:by_norm --arms market

An alignment method returns a permutation of the other model's units that matches the reference.
It leaves the function of the model unchanged; ``fl_market.permutation.testing`` checks this.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from fl_market.permutation import Group, Permutation, PermutationSpec, identity_permutation

State = Mapping[str, Tensor]


def by_norm(spec: PermutationSpec, reference: State, other: State, context: Any) -> Permutation:
    """Return the permutation that matches units of equal rank, by norm, in both models."""
    permutation = dict(identity_permutation(spec))
    for name, group in spec.groups.items():
        order = np.empty(group.size, dtype=np.int64)
        order[_ranked(group, reference)] = _ranked(group, other)
        permutation[name] = order
    return permutation


def _ranked(group: Group, state: State) -> np.ndarray:
    """Return a group's units from the smallest norm to the largest, by its first tensor."""
    use = group.uses[0]
    units = state[use.tensor].double().movedim(use.axis, 0).reshape(group.size, -1)
    return np.argsort(units.norm(dim=1).numpy(), kind="stable")
