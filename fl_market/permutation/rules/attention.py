"""Rules for matrix products and attention: dimensions of a batch that carry units are heads."""

from collections.abc import Sequence
from typing import Any

from torch import fx

from fl_market.permutation.labels import Table, Value
from fl_market.permutation.rules.common import Result, shape_of, without
from fl_market.permutation.tracer import Tracer


def matmul(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Join the contracted dimensions; batch dimensions that carry units are heads."""
    left, right = arguments[:2]
    rank = len(left.shape)
    if rank < 2 or (len(right.shape) not in (2, rank)):
        return None
    if len(right.shape) == 2:
        tracer.contract(node, left, rank - 1, right, 0)
        columns = right.along(1)
        labelled = () if columns is None else (Table((rank - 1,), columns.labels),)
        return Value(shape_of(node), without(left, [rank - 1]) + labelled)
    return _batched(tracer, node, left, right)


def _batched(tracer: Tracer, node: fx.Node, left: Value, right: Value) -> Result:
    rank = len(left.shape)
    inner = left.along(rank - 1), right.along(rank - 2)
    heads = None
    if inner[0] is not None and inner[1] is not None:
        if inner[0].dims[:-1] != inner[1].dims[:-1]:
            return None
        tracer.labels.join(inner[0].labels, inner[1].labels, node.name)
        heads = tracer.heads(node, inner[0])
    elif inner[0] is not None or inner[1] is not None:
        return None
    tables = [] if heads is None else [heads]
    for value, outer in ((left, rank - 2), (right, rank - 1)):
        for table in value.tables:
            if table in inner:
                continue
            if outer in table.dims or len(table.dims) == 1:
                tables.append(table)
            else:
                return None
    return _merge_heads(tracer, node, tables)


def _merge_heads(tracer: Tracer, node: fx.Node, tables: list[Table]) -> Result:
    """Join the heads of one side with the heads of the units of the other side."""
    result: list[Table] = []
    for table in sorted(tables, key=lambda table: -len(table.dims)):
        clash = next((own for own in result if set(own.dims) & set(table.dims)), None)
        if clash is None:
            result.append(table)
        elif clash.dims == table.dims:
            tracer.labels.join(clash.labels, table.labels, node.name)
        elif table.dims != clash.dims[:-1]:
            return None
    for table in result:
        inside = tracer.heads(node, table)
        if inside is None:
            continue
        outside = next((other for other in tables if other.dims == inside.dims), None)
        if outside is None:
            tracer.labels.freeze(inside.labels, f"{node.name}: its heads are not permuted")
        else:
            tracer.labels.join(inside.labels, outside.labels, node.name)
    return Value(shape_of(node), tuple(result))


def attention(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Permute heads as wholes, and inside a head the units of q and k, and those of v."""
    query, key, value, *rest = arguments
    masked = any(isinstance(argument, Value) and argument.tables for argument in rest)
    tables = [operand.tables[0] for operand in (query, key, value) if len(operand.tables) == 1]
    if masked or len(tables) != 3 or len({(operand.shape[:-2]) for operand in (query, key, value)}) != 1:
        return None
    if len({table.dims for table in tables}) != 1 or tables[0].dims[-1] != len(query.shape) - 1:
        return None
    tracer.labels.join(tables[0].labels, tables[1].labels, node.name)
    scores, content = tracer.heads(node, tables[0]), tracer.heads(node, tables[2])
    if scores is not None and content is not None:
        tracer.labels.join(scores.labels, content.labels, node.name)
    return Value(shape_of(node), (tables[2],))
