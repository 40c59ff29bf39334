"""The labels of a model's tensors, and the statements that rules make about them.

A rule sees one operation of the exported graph. It tells the tracer which axes the operation
contracts, joins or freezes. The tracer holds the outcome for all axes of all tensors.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from torch import Tensor, fx

from fl_market.permutation.labels import Array, Labels, Table, Value

Rows = tuple[int, int] | None
"""The rows of a tensor that a statement about its second axis covers (grouped convolutions)."""


class Tracer:
    """The labels of one model; rules call its methods.

    Parameters
    ----------
    state
        Parameters and buffers by name. Tied ones are one object under several names.
    used_once
        Names of the tensors that a single operation uses, and that are not tied.

    Attributes
    ----------
    labels
        Units, and which of them are one.
    state
        As given.
    canonical
        Name of each tensor -> the first of the names that tied tensors share.
    axes
        (tensor, axis, rows) -> the labels of that axis, if an operation used it.
    heads_found
        Heads of attention and the units inside them, shapes (heads,) and (heads, units).
    """

    def __init__(self, state: Mapping[str, Tensor], used_once: Collection[str]) -> None:
        self.labels = Labels()
        self.state = state
        self.canonical = canonical_names(state)
        self.axes: dict[tuple[str, int, Rows], Array] = {}
        self._used_once = used_once
        self._parameters: dict[int, str] = {}
        self._heads: dict[bytes, tuple[Array, Array]] = {}

    @property
    def heads_found(self) -> list[tuple[Array, Array]]:
        """The heads and the units inside them, in the order in which rules asked for them."""
        return list(self._heads.values())

    def parameter(self, name: str) -> Value:
        """Return a parameter or buffer as a value of the graph."""
        shape = tuple(self.state[name].shape)
        # an axis of size 1 is broadcast, and there is nothing to permute in it
        tables = (Table((axis,), self.axis(name, axis)) for axis, size in enumerate(shape) if size > 1)
        value = Value(shape, tuple(tables))
        self._parameters[id(value)] = name
        return value

    def parameter_of(self, value: Value) -> str | None:
        """Return the name of the parameter or buffer that a value is, if it is one as it stands."""
        return self._parameters.get(id(value))

    def axis(self, tensor: str, axis: int, rows: Rows = None) -> Array:
        """Return the labels of one axis of a parameter or buffer, fresh on first use."""
        key = (self.canonical[tensor], axis, rows)
        if key not in self.axes:
            self.axes[key] = self.labels.fresh(self.state[tensor].shape[axis])
        return self.axes[key]

    def freeze(self, value: Any, reason: str) -> None:
        """Freeze all labels of a value, or of several."""
        if isinstance(value, (tuple, list)):
            for part in value:
                self.freeze(part, reason)
        elif isinstance(value, Value):
            for table in value.tables:
                self.labels.freeze(table.labels, reason)

    def freeze_axis(self, value: Value, dim: int, reason: str) -> None:
        """Freeze the labels of one dimension."""
        table = value.along(dim)
        if table is not None:
            self.labels.freeze(table.labels, reason)

    def contract(self, node: fx.Node, left: Value, left_dim: int, right: Value, right_dim: int) -> None:
        """Join a dimension of one value with one of another; freeze it if one alone has labels."""
        tables = [left.along(left_dim), right.along(right_dim)]
        if tables[0] is not None and tables[1] is not None and len(tables[0].dims) == len(tables[1].dims) == 1:
            self.join_axis(node, tables[0], right, right_dim)
            return
        for table in tables:
            if table is not None:
                self.labels.freeze(table.labels, f"{node.name}: joined with an axis that is not permuted")

    def join_axis(self, node: fx.Node, table: Table | None, other: Value, dim: int) -> None:
        """Join a table with one dimension of a value.

        A parameter that no other operation uses takes over the labels as they are, with their slots
        (the pixels of a flattened channel) and their pieces.
        """
        along = other.along(dim)
        if table is None or along is None:
            return
        name = self.parameter_of(other) or ""
        if name in self._used_once and table.labels.shape == along.labels.shape:
            self.axes[name, dim, None] = table.labels
        else:
            self.labels.join(table.labels, along.labels, node.name)

    def heads(self, node: fx.Node, table: Table) -> Table | None:
        """Return labels of the heads of a table (heads, units inside), or None where it has none.

        Units inside a head must not leave it: they are tagged with their head.
        """
        if len(table.dims) == 1:
            return None
        flat = table.labels.reshape(-1, table.labels.shape[-1])
        tags = [(node.name, head) for head in range(len(flat)) for _ in range(flat.shape[1])]
        self.labels.tag(flat, tags)
        key = np.ascontiguousarray(flat).tobytes()
        if key not in self._heads:
            self._heads[key] = self.labels.fresh(len(flat)), flat
        return Table(table.dims[:-1], self._heads[key][0].reshape(table.labels.shape[:-1]))


def canonical_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return for each tensor the first name of the same object: tied weights have several."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
