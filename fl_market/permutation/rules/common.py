"""The type of all rules, and small operations on values that they share."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from fl_market.permutation.labels import Table, Value
from fl_market.permutation.tracer import Tracer

Result = Value | tuple[Value, ...] | None
Rule = Callable[[Tracer, fx.Node, Sequence[Any]], Result]
"""(tracer, node of the exported graph, values of its arguments) -> value of the node.

A rule returns None where it does not know: everything that touches the operation is then frozen.
"""


def operation_name(node: fx.Node) -> str:
    """Return the name of a node's ATen operation, without overload."""
    return getattr(node.target, "_opname", None) or getattr(node.target, "__name__", str(node.target)).split(".")[0]


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's tensor."""
    return tuple(int(size) for size in node.meta["val"].shape)


def own_table(value: Value, dim: int) -> Table | None:
    """Return the table of one dimension, if it is a table of its own."""
    table = value.along(dim)
    return table if table is not None and len(table.dims) == 1 else None


def without(value: Value, dims: Sequence[int]) -> tuple[Table, ...]:
    """Return the tables that none of some dimensions takes part in."""
    return tuple(table for table in value.tables if not set(table.dims) & set(dims))


def joined(tracer: Tracer, node: fx.Node, left: Value, right: Value) -> Value:
    """Join two values of one rank; a dimension of size 1 takes the labels of the other's."""
    shape = tuple(max(a, b) for a, b in zip(left.shape, right.shape, strict=True))
    tables: list[Table] = []
    for value, other in ((left, right), (right, left)):
        for table in value.tables:
            twin = other.along(table.dims[0])
            if twin is not None and twin.dims == table.dims:
                tracer.labels.join(table.labels, twin.labels, node.name)
            elif any(other.along(dim) is not None or other.shape[dim] != 1 for dim in table.dims):
                tracer.labels.freeze(table.labels, f"{node.name}: joined with an axis that is not permuted")
            if not any(set(own.dims) & set(table.dims) for own in tables):
                tables.append(table)
    return Value(shape, tuple(tables))
