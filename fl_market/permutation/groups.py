"""Gather the groups of exchangeable units from the labels that are left after the walk."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from fl_market.permutation.labels import FROZEN, SLOTS, Array
from fl_market.permutation.spec import AxisUse, Group, Inside, PermutationSpec
from fl_market.permutation.tracer import Rows, Tracer

Place = tuple[str, int, Rows, int, str]
"""Tensor, axis, rows, slot, and the pieces that the tensor was split into behind it."""
Places = Mapping[int, Sequence[tuple[Place, int]]]
"""Unit -> the places at which it appears, and its position there."""


def collect_spec(tracer: Tracer) -> PermutationSpec:
    """Return the permutation spec of the model whose labels a tracer holds."""
    for tensor, axis in {(tensor, axis) for tensor, axis, rows in tracer.axes if rows is not None}:
        # a grouped convolution labels its second axis in blocks: the whole axis has no labels
        tracer.axes.pop((tensor, axis, None), None)
    places = _places(tracer)
    groups = _Groups(tracer)
    for units in _alike(tracer, places):
        groups.add_units(units, places)
    for heads, inside in tracer.heads_found:
        groups.add_heads(heads, inside, places)
    buffers = frozenset(name for name, value in tracer.state.items() if not isinstance(value, nn.Parameter))
    return PermutationSpec(groups.by_name, _frozen(tracer), buffers)


def _places(tracer: Tracer) -> Places:
    """Return where each unit appears, in an order that is the same for exchangeable units."""
    places: dict[int, list[tuple[Place, int]]] = defaultdict(list)
    for (tensor, axis, rows), labels in tracer.axes.items():
        for position, label in enumerate(labels.tolist()):
            unit, slot = divmod(label, SLOTS)
            root = tracer.labels.find(unit)
            if root != FROZEN:
                places[root].append(((tensor, axis, rows, slot, tracer.labels.role(unit)), position))
    for found in places.values():
        found.sort(key=lambda entry: (entry[0][:2], entry[0][2] or (-1, -1), entry[0][3:], entry[1]))
    return places


def _alike(tracer: Tracer, places: Places) -> list[list[int]]:
    """Return the sets of units that appear at the same places and have the same tags."""
    alike: dict[Hashable, list[int]] = defaultdict(list)
    # a head stands for the units inside it, too: it is permuted with them, or not at all
    heads = {root for labels, _ in tracer.heads_found for root in _roots(tracer, labels)}
    for unit, found in places.items():
        if unit not in heads:
            alike[tuple(place for place, _ in found), tracer.labels.tags(unit)].append(unit)
    return list(alike.values())


class _Groups:
    """The groups found so far."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self.by_name: dict[str, Group] = {}
        self._group_of: dict[int, str] = {}

    def add_units(self, units: Sequence[int], places: Places) -> None:
        """Add a group of exchangeable units, unless it has one unit or its places are ambiguous."""
        where = [place for place, _ in places[units[0]]]
        if len(units) < 2 or _ambiguous(where):
            return
        positions = [np.array([[places[unit][index][1]] for unit in units]) for index in range(len(where))]
        self._group_of.update(dict.fromkeys(units, self._add(where, positions)))

    def add_heads(self, heads: Array, inside: Array, places: Places) -> None:
        """Add the group that permutes heads as wholes: q, k, v and the columns behind them."""
        roots = _roots(self._tracer, heads)
        # several tables of units (of q and k, of v) have the same heads: the first adds all
        tables = [units for labels, units in self._tracer.heads_found if _roots(self._tracer, labels) == roots]
        if FROZEN in roots or len(set(roots)) != len(roots) or inside is not tables[0]:
            return
        found: list[tuple[Place, Array]] = []
        for units in [[_roots(self._tracer, row) for row in table] for table in tables] + [[[root] for root in roots]]:
            signatures = {tuple(place for place, _ in places.get(unit, [])) for row in units for unit in row}
            if len(signatures) != 1 or any(FROZEN in row for row in units):
                return
            for index, place in enumerate(signatures.pop()):
                found.append((place, np.array([[places[unit][index][1] for unit in row] for row in units])))
        where = [place for place, _ in found]
        if not where or _ambiguous(where):
            return
        name = self._add(where, [positions for _, positions in found], suffix=" (heads)")
        for part, table in enumerate(tables):
            for head, row in enumerate(table):
                inner = self._group_of.get(_roots(self._tracer, row)[0])
                if inner is not None:
                    self.by_name[inner] = replace(self.by_name[inner], inside=Inside(name, part, head))

    def _add(self, where: Sequence[Place], columns: Sequence[Array], suffix: str = "") -> str:
        """Add a group and return its name; ``columns`` holds arrays (units, positions) by place."""
        uses = []
        for tensor, axis, rows in dict.fromkeys(place[:3] for place in where):
            chosen = [column for place, column in zip(where, columns, strict=True) if place[:3] == (tensor, axis, rows)]
            uses += [
                AxisUse(name, axis, np.concatenate(chosen, axis=1), rows)
                for name, canonical in self._tracer.canonical.items()
                if canonical == tensor
            ]
        order = list(self._tracer.state)
        uses.sort(key=lambda use: (order.index(use.tensor), use.axis, use.rows or (0, 0)))
        base = next((use.tensor for use in uses if use.axis == 0), uses[0].tensor) + suffix
        name, count = base, 1
        while name in self.by_name:
            name, count = f"{base} [{count}]", count + 1
        self.by_name[name] = Group(len(uses[0].positions), tuple(uses))
        return name


def _frozen(tracer: Tracer) -> dict[tuple[str, int], str]:
    """Return the axes of which some position may not be permuted, with the reason."""
    frozen = {}
    labels_of = tracer.labels
    for (tensor, axis, _), labels in tracer.axes.items():
        units = np.unique(labels // SLOTS).tolist()
        if all(labels_of.find(unit) != FROZEN for unit in units):
            continue
        reasons = [labels_of.reasons[unit] for unit in units if unit in labels_of.reasons]
        frozen[tensor, axis] = reasons[0] if reasons else "joined with a frozen axis"
    known = {(tensor, axis) for tensor, axis, _ in tracer.axes}
    for tensor, value in tracer.state.items():
        for axis in range(value.dim()):
            if value.shape[axis] > 1 and (tracer.canonical[tensor], axis) not in known:
                frozen[tensor, axis] = "not permuted by any operation"
    return frozen


def _roots(tracer: Tracer, labels: Array) -> list[int]:
    return [tracer.labels.find(int(label) // SLOTS) for label in labels]


def _ambiguous(where: Sequence[Place]) -> bool:
    """Whether a unit has two positions on one axis that nothing tells apart."""
    return len(set(where)) != len(where)
