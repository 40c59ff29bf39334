"""Inner products of the units of two models, group by group."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_market.parameters import StateDict
from fl_market.permutation.spec import AxisUse, PermutationSpec


def inner_products(size: int, uses: Iterable[AxisUse], reference: StateDict, other: StateDict) -> Tensor:
    """Return those of all units of ``reference`` and of ``other``, shape (size, size)."""
    total = torch.zeros(size, size)
    for use in uses:
        total.addmm_(units_of(reference, use), units_of(other, use).T)
    return total


def units_of(state: StateDict, use: AxisUse) -> Tensor:
    """Return the part of one tensor that each unit owns, shape (units, everything else)."""
    return _owned(state[use.tensor], use)


def _owned(tensor: Tensor, use: AxisUse) -> Tensor:
    if use.rows is not None:
        tensor = tensor[slice(*use.rows)]
    if use.positions.size != tensor.shape[use.axis] or not np.array_equal(
        use.positions.reshape(-1), np.arange(use.positions.size)
    ):
        tensor = tensor.index_select(use.axis, torch.from_numpy(use.positions.reshape(-1)))
    return tensor.movedim(use.axis, 0).reshape(len(use.positions), -1)


class Similarities:
    """For each group the inner products of all units of the reference and of the aligned model.

    They are kept up to date. A reordering of one group changes the similarities of the groups with
    which it shares a tensor, by the product of the moved columns alone.

    Parameters
    ----------
    spec
        The groups, as far as they live on parameters.
    reference, aligned
        State dicts in single precision, the second in the order found so far.

    Attributes
    ----------
    aligned
        The second one, in the order of all reorderings since.
    smallest
        Scale below which a gain is rounding: the largest similarity at the start.
    """

    def __init__(self, spec: PermutationSpec, reference: StateDict, aligned: StateDict) -> None:
        self._groups, self._reference = spec.groups, reference
        self.aligned = dict(aligned)
        self._users = defaultdict(list)
        for name, group in spec.groups.items():
            for use in group.uses:
                self._users[use.tensor].append((name, use))
        self._matrices = {name: self.computed(name) for name in spec.groups}
        self.smallest = max((float(matrix.abs().max()) for matrix in self._matrices.values()), default=1.0)

    def __getitem__(self, name: str) -> Tensor:
        return self._matrices[name]

    def computed(self, name: str) -> Tensor:
        """Return one group's similarities, computed anew."""
        group = self._groups[name]
        return inner_products(group.size, group.uses, self._reference, self.aligned)

    def independent(self, names: Sequence[str]) -> list[str]:
        """Return those of the groups that share no tensor with one returned before them."""
        taken: list[str] = []
        touched: set[str] = set()
        for name in names:
            tensors = {use.tensor for use in self._groups[name].uses}
            if not tensors & touched:
                taken.append(name)
                touched |= tensors
        return taken

    def gain(self, name: str, order: NDArray[np.int64]) -> tuple[float, float]:
        """Return the rise of the sum of a group's similarities with an order, and that sum."""
        similarity = self._matrices[name]
        present = float(similarity.trace())
        return float(similarity[np.arange(len(order)), order].sum()) - present, present

    def reorder(self, name: str, order: NDArray[np.int64]) -> set[str]:
        """Reorder one group's units; return the groups whose similarities that changed."""
        moved = np.flatnonzero(order != np.arange(len(order)))
        changed = set()
        for use in self._groups[name].uses:
            before = self.aligned[use.tensor]
            after = use.reordered(before, order)
            for neighbour, view in self._users[use.tensor]:
                if neighbour != name:
                    changed.add(neighbour)
                    self._update(neighbour, view, use, moved, before, after)
            self.aligned[use.tensor] = after
        self._matrices[name] = self.computed(name) if self._acts_on_itself(name) else self._matrices[name][:, order]
        return changed

    def _update(
        self, name: str, view: AxisUse, use: AxisUse, moved: NDArray[np.int64], before: Tensor, after: Tensor
    ) -> None:
        reference = self._reference[view.tensor]
        if view.axis != use.axis and view.rows is None and use.rows is None:
            columns = torch.from_numpy(use.positions[moved].reshape(-1))
            reference, before, after = (tensor.index_select(use.axis, columns) for tensor in (reference, before, after))
        self._matrices[name].addmm_(_owned(reference, view), _owned(after - before, view).T)

    def _acts_on_itself(self, name: str) -> bool:
        """Return whether some tensor has the group on two axes, so that one changes the other."""
        tensors = [use.tensor for use in self._groups[name].uses]
        return len(set(tensors)) < len(tensors)
