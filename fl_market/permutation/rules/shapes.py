"""Rules for operations that move, split, join or cut dimensions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from fl_market.permutation.labels import Array, Table, Value
from fl_market.permutation.rules.common import Result, joined, shape_of, without
from fl_market.permutation.tracer import Tracer


def moving(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Hand on the labels of an operation that pads, crops or rolls dimensions which carry none."""
    value, shape = arguments[0], shape_of(node)
    moved = {dim for dim, size in enumerate(shape) if size != value.shape[dim]}
    if node.target is torch.ops.aten.roll.default:
        moved |= {dim % len(shape) for dim in (arguments[2] if len(arguments) > 2 else range(len(shape)))}
    else:  # a dimension may grow at one end and shrink at the other
        moved |= {len(shape) - 1 - place // 2 for place, amount in enumerate(arguments[1]) if amount}
    return None if any(value.along(dim) is not None for dim in moved) else Value(shape, value.tables)


def reshape(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Split and merge dimensions (view, flatten, squeeze, …)."""
    value = arguments[0]
    return value.reshaped(shape_of(node)) if isinstance(value, Value) else None


def permute(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Reorder dimensions."""
    result: Value = arguments[0].permuted(arguments[1])
    return result


def transpose(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Exchange two dimensions."""
    value, first, second = (*arguments, 0, 1)[:3]
    order = list(range(len(value.shape)))
    order[first], order[second] = order[second], order[first]
    result: Value = value.permuted(order)
    return result


def expand(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Repeat dimensions of size 1, which carry no labels."""
    value, shape = arguments[0], shape_of(node)
    shift = len(shape) - len(value.shape)
    tables = tuple(Table(tuple(dim + shift for dim in table.dims), table.labels) for table in value.tables)
    if any(shape[dim] != value.shape[dim - shift] for table in tables for dim in table.dims):
        return None
    return Value(shape, tables)


def concatenate(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Put labels one after the other along the dimension, and join them along all others."""
    values, shape = arguments[0], shape_of(node)
    dim = (int(arguments[1]) if len(arguments) > 1 else 0) % len(shape)
    if any(len(table.dims) > 1 and dim in table.dims for value in values for table in value.tables):
        return None
    widened = [Value(shape, without(value, [dim])) for value in values]
    others = widened[0]
    for value in widened[1:]:
        others = joined(tracer, node, others, value)
    along = [value.along(dim) for value in values]
    if all(table is None for table in along):
        return others
    parts = [
        table.labels if table is not None else np.zeros(value.shape[dim], dtype=np.int64)
        for value, table in zip(values, along, strict=True)
    ]
    return Value(shape, (*others.tables, Table((dim,), np.concatenate(parts))))


def split(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Cut a dimension into pieces."""
    value = arguments[0]
    dim = (int(arguments[2]) if len(arguments) > 2 else 0) % len(value.shape)
    pieces, start = [], 0
    for piece in node.meta["val"]:
        size = int(piece.shape[dim])
        pieces.append(_taken(value, dim, np.arange(start, start + size), tuple(piece.shape)))
        _mark(tracer, pieces[-1], dim, f"{node.name}:{len(pieces)}")
        start += size
    return tuple(pieces)


def item(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Pick one of several results."""
    result: Value | None = arguments[0][arguments[1]] if isinstance(arguments[0], tuple) else None
    return result


def cut(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Take a slice of a dimension."""
    given = list(arguments[1:]) + [0, None, None, 1][len(arguments) - 1 :]
    value, (dim, start, stop, step) = arguments[0], given
    dim %= len(value.shape)
    index = np.arange(value.shape[dim])[slice(start, stop, step)]
    piece = _taken(value, dim, index, shape_of(node))
    if len(index) < value.shape[dim]:
        _mark(tracer, piece, dim, node.name)
    return piece


def select(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Take one position of a dimension, which disappears."""
    value, dim, index = arguments
    dim %= len(value.shape)
    table = value.along(dim)
    if table is not None and len(table.dims) == 1:
        tracer.labels.freeze(table.labels, f"{node.name}: picks one position")
        value = Value(value.shape, without(value, [dim]))
    kept = _taken(value, dim, np.array([index % value.shape[dim]]), (*value.shape[:dim], 1, *value.shape[dim + 1 :]))
    _mark(tracer, kept, dim, node.name)
    return kept.reshaped(shape_of(node))


def _mark(tracer: Tracer, piece: Value, dim: int, role: str) -> None:
    table = piece.along(dim)
    if table is not None:
        tracer.labels.mark(table.labels, role)


def _taken(value: Value, dim: int, index: Array, shape: tuple[int, ...]) -> Value:
    tables = (
        Table(table.dims, np.take(table.labels, index, axis=table.dims.index(dim))) if dim in table.dims else table
        for table in value.tables
    )
    return Value(shape, tuple(tables))
