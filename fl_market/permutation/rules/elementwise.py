"""Rules for operations that treat every position alike, or join positions one by one."""

from collections.abc import Sequence
from typing import Any

from torch import fx

from fl_market.permutation.labels import Table, Value
from fl_market.permutation.rules.common import Result, joined, shape_of
from fl_market.permutation.tracer import Tracer


def same(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Hand on the first argument: the operation treats every position alike."""
    value = arguments[0]
    return value if isinstance(value, Value) and value.shape == shape_of(node) else None


def arithmetic(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Join all operands position by position, with broadcasting (residual additions, gates)."""
    rank = len(shape_of(node))
    operands = [_aligned(argument, rank) for argument in arguments if isinstance(argument, Value)]
    result = operands[0]
    for operand in operands[1:]:
        result = joined(tracer, node, result, operand)
    return result if result.shape == shape_of(node) else None


def _aligned(value: Value, rank: int) -> Value:
    """Return the value with leading dimensions of size 1, as broadcasting adds them."""
    shift = rank - len(value.shape)
    tables = (Table(tuple(dim + shift for dim in table.dims), table.labels) for table in value.tables)
    return Value((1,) * shift + value.shape, tuple(tables))


def constant(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Return a tensor that depends on no parameter."""
    return Value(shape_of(node))
