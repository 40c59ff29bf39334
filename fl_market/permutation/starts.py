"""Starts of weight matching: from the input on or, for a permuted copy, by alike units."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_market.parameters import StateDict
from fl_market.permutation.assignment import Assignment
from fl_market.permutation.similarity import inner_products, units_of
from fl_market.permutation.spec import PermutationSpec, identity_permutation

_COPY = 0.5
"""Greatest distance of a copy's unit from its original, in the distance between originals."""


def from_the_input_on(
    spec: PermutationSpec, reference: StateDict, other: StateDict, assignments: Mapping[str, Assignment]
) -> dict[str, NDArray[np.int64]]:
    """Return a first permutation: each group is matched once, in the order of the model.

    A tensor counts once all other groups on it have been matched. The insides of heads stay as they
    are.

    Parameters
    ----------
    spec
        The groups, as far as they live on parameters.
    reference, other
        State dicts in single precision.
    assignments
        A sequence of assignment problems for each group that is to be matched.
    """
    permutation, aligned = identity_permutation(spec), dict(other)
    unmatched = {name for name in assignments if spec.groups[name].inside is None}
    groups_on = defaultdict(set)
    for name, group in spec.groups.items():
        for use in group.uses:
            groups_on[use.tensor].add(name)
    for name in [name for name in spec.groups if name in unmatched]:
        group = spec.groups[name]
        uses = [use for use in group.uses if groups_on[use.tensor] & unmatched == {name}] or group.uses
        permutation[name] = assignments[name].solve(inner_products(group.size, uses, reference, aligned))
        for use in group.uses:
            aligned[use.tensor] = use.reordered(aligned[use.tensor], permutation[name])
        unmatched.remove(name)
    return permutation


def alike(spec: PermutationSpec, reference: StateDict, other: StateDict) -> dict[str, NDArray[np.int64]]:
    """Return the permutation that pairs units whose weights are the same numbers in any order.

    The part of a tensor that a unit owns is sorted first, so that the order of all other units does
    not matter. A network and its permuted copy are matched at once, where coordinate descent alone
    often ends in a local optimum.
    """
    permutation = {}
    for name, group in spec.groups.items():
        similarity = torch.zeros(group.size, group.size)
        for use in group.uses:
            similarity += units_of(reference, use).sort(1).values @ units_of(other, use).sort(1).values.T
        permutation[name] = Assignment().solve(similarity)
    return permutation


def looks_like_a_copy(spec: PermutationSpec, reference: StateDict, other: StateDict) -> bool:
    """Return whether each unit of ``other`` is near to one of ``reference``."""
    if not spec.groups:
        return False
    group = max(spec.groups.values(), key=lambda group: group.size)
    left, right = (torch.cat([_profile(units_of(state, use)) for use in group.uses], 1) for state in (reference, other))
    apart = torch.cdist(left, left).fill_diagonal_(torch.inf).amin(1).median()
    return bool(torch.cdist(left, right).amin(1).median() < _COPY * apart)


def _profile(units: Tensor) -> Tensor:
    """Return five numbers of each unit that do not depend on the order of its weights."""
    return torch.stack([units.mean(1), units.abs().mean(1), units.norm(dim=1), units.amax(1), units.amin(1)], 1)
