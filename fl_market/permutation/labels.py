"""Labels: the unit that each position of a tensor belongs to.

A label is ``unit * SLOTS + slot``. Units that must be permuted together are joined (union-find). A
*slot* tells apart the positions inside one unit, as the pixels of a flattened channel. A *tag*
tells apart units that must not be exchanged, as those of two attention heads.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]
SLOTS = 1 << 24
FROZEN = 0
"""The unit that may not be permuted, and that absorbs all units that are joined with it."""


class Labels:
    """Units, and which of them were joined."""

    def __init__(self) -> None:
        self._parent = [FROZEN]
        self._tags: dict[int, set[Hashable]] = defaultdict(set)
        self._roles: dict[int, str] = {}
        self.reasons: dict[int, str] = {}

    def fresh(self, size: int) -> Array:
        """Return labels of new units, one for each position."""
        first = len(self._parent)
        self._parent.extend(range(first, first + size))
        return np.arange(first, first + size, dtype=np.int64) * SLOTS

    def find(self, unit: int) -> int:
        """Return the unit that stands for all those joined with this one."""
        while self._parent[unit] != unit:
            self._parent[unit] = self._parent[self._parent[unit]]
            unit = self._parent[unit]
        return unit

    def freeze(self, labels: Array, reason: str) -> None:
        """Forbid to permute the units of some labels, and remember the reason."""
        for unit in np.unique(labels // SLOTS).tolist():
            root = self.find(unit)
            if root != FROZEN:
                self._parent[root] = FROZEN
                self.reasons[root] = reason

    def join(self, left: Array, right: Array, reason: str) -> None:
        """Join labels position by position; positions of different slots are frozen."""
        if left.shape != right.shape:
            self.freeze(left, reason)
            self.freeze(right, reason)
            return
        for a, b in zip(left.ravel().tolist(), right.ravel().tolist(), strict=True):
            (unit_a, slot_a), (unit_b, slot_b) = divmod(a, SLOTS), divmod(b, SLOTS)
            root_a, root_b = self.find(unit_a), self.find(unit_b)
            if root_a == root_b and slot_a == slot_b:
                continue
            if slot_a != slot_b or FROZEN in (root_a, root_b):
                self.freeze(np.array([a, b]), reason)
            else:
                kept, absorbed = min(root_a, root_b), max(root_a, root_b)
                self._parent[absorbed] = kept
                self._tags[kept] |= self._tags.pop(absorbed, set())

    def tag(self, labels: Array, tags: Iterable[Hashable]) -> None:
        """Attach to each label's unit its tag; units with other tags are not exchanged for it."""
        for label, tag in zip(labels.ravel().tolist(), tags, strict=True):
            self._tags[self.find(label // SLOTS)].add(tag)

    def mark(self, labels: Array, role: str) -> None:
        """Remember the piece of a tensor that some positions went into.

        It tells apart the places of one unit in that tensor.
        """
        for unit in np.unique(labels // SLOTS).tolist():
            self._roles[unit] = f"{self._roles.get(unit, '')}/{role}"

    def role(self, unit: int) -> str:
        """Return the pieces that a unit went into before it was joined with others."""
        return self._roles.get(unit, "")

    def tags(self, unit: int) -> frozenset[Hashable]:
        """Return the tags of a unit."""
        return frozenset(self._tags.get(self.find(unit), ()))


@dataclass(frozen=True)
class Table:
    """Labels along some dimensions of a value, one axis for each of ``dims``, which ascend."""

    dims: tuple[int, ...]
    labels: Array


@dataclass(frozen=True)
class Value:
    """A tensor of the traced graph: its shape, and the labels of its labelled dimensions."""

    shape: tuple[int, ...]
    tables: tuple[Table, ...] = ()

    def along(self, dim: int) -> Table | None:
        """Return the table that a dimension takes part in."""
        dim %= len(self.shape)
        return next((table for table in self.tables if dim in table.dims), None)

    def permuted(self, order: Iterable[int]) -> "Value":
        """Return the value with its dimensions reordered, as ``torch.permute``."""
        order = [dim % len(self.shape) for dim in order]
        place = {old: new for new, old in enumerate(order)}
        tables = []
        for table in self.tables:
            moved = [place[dim] for dim in table.dims]
            axes = np.argsort(moved)
            tables.append(Table(tuple(sorted(moved)), table.labels.transpose(axes)))
        return Value(tuple(self.shape[dim] for dim in order), tuple(tables))

    def reshaped(self, shape: tuple[int, ...]) -> "Value | None":
        """Return the value in another shape, or None if two tables would share a dimension."""
        segments = _segments(self.shape, shape)
        if segments is None:
            return None
        changed = [old for old, new in segments if len(old) > 1 or len(new) > 1]
        tables = []
        for table in self.tables:
            touched = [(old, new) for old, new in segments if set(old) & set(table.dims)]
            old_dims = tuple(dim for old, _ in touched for dim in old)
            new_dims = tuple(dim for _, new in touched for dim in new)
            for other in self.tables:
                shared = set(other.dims) & set(old_dims)
                if other is not table and any(shared & set(old) for old in changed):
                    return None
            labels = _spread(table, old_dims, self.shape).reshape([shape[dim] for dim in new_dims])
            simple = _simplified(new_dims, labels)
            if simple is not None:
                tables.append(simple)
        return Value(shape, tuple(tables))


def _segments(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]] | None:
    """Return the shortest runs of dimensions that a reshape maps onto each other."""
    segments = []
    i = j = 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        left = right = 1
        if i < len(old) and old[i] == 1 and (j == len(new) or new[j] != 1):
            i += 1
        elif j < len(new) and new[j] == 1 and (i == len(old) or old[i] != 1):
            j += 1
        elif i < len(old) and j < len(new):
            left, right = old[i], new[j]
            i, j = i + 1, j + 1
        else:
            return None
        while left != right:
            if left < right:
                if i == len(old):
                    return None
                left, i = left * old[i], i + 1
            else:
                if j == len(new):
                    return None
                right, j = right * new[j], j + 1
        segments.append((tuple(range(start_i, i)), tuple(range(start_j, j))))
    return segments


def _spread(table: Table, dims: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Return labels over more dimensions; the place among the new ones is part of the slot."""
    extra = [dim for dim in dims if dim not in table.dims]
    count = int(np.prod([shape[dim] for dim in extra], dtype=np.int64))
    units, slots = np.divmod(table.labels, SLOTS)
    spread = (units * SLOTS + slots * count)[..., None] + np.arange(count)
    spread = spread.reshape([*table.labels.shape, *(shape[dim] for dim in extra)])
    result: Array = spread.transpose(np.argsort([*table.dims, *extra]))
    return result


def _simplified(dims: tuple[int, ...], labels: Array) -> Table | None:
    """Return the table without the dimensions along which only the slot changes, not the unit."""
    kept = list(dims)
    for axis in reversed(range(labels.ndim)):
        size = labels.shape[axis]
        units, slots = np.divmod(np.moveaxis(labels, axis, -1), SLOTS)
        if (units == units[..., :1]).all() and (slots == slots[..., :1] // size * size + np.arange(size)).all():
            labels = (units * SLOTS + slots // size)[..., 0]
            del kept[axis]
    return Table(tuple(kept), labels) if kept else None
