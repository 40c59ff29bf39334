"""Rules for norms, pooling and reductions."""

from collections.abc import Sequence
from typing import Any

from torch import fx

from fl_market.permutation.labels import Value
from fl_market.permutation.rules.common import Result, operation_name, own_table, shape_of, without
from fl_market.permutation.tracer import Tracer


def channel_norm(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Join channels with everything that a batch or instance norm, or a PReLU, keeps of them."""
    value, *parameters = arguments
    for parameter in parameters:
        if isinstance(parameter, Value) and parameter.shape != (1,):
            tracer.contract(node, value, 1, parameter, 0)
    return value if isinstance(value, Value) else None


def group_norm(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Join channels with weight and bias; channels of different groups must not be exchanged."""
    value, groups, *parameters = arguments
    channels = own_table(value, 1)
    if channels is not None and groups > 1:
        size = value.shape[1] // groups
        tracer.labels.tag(channels.labels, [(node.name, channel // size) for channel in range(value.shape[1])])
    return channel_norm(tracer, node, [value, *parameters])


def layer_norm(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Join the normalised dimensions with weight and bias."""
    value, normalised, *parameters = arguments
    dims = range(len(value.shape) - len(normalised), len(value.shape))
    for table in value.tables:
        if set(table.dims) & set(dims) and not set(table.dims) <= set(dims):
            tracer.labels.freeze(table.labels, f"{node.name}: a part of its units is normalised")
    for parameter in parameters:
        if isinstance(parameter, Value):
            for dim in dims:
                tracer.contract(node, value, dim, parameter, dim - dims[0])
    return value if isinstance(value, Value) else None


def pooling(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Hand on the channels of an operation on pixels."""
    value, shape = arguments[0], shape_of(node)
    pixels = int(operation_name(node)[-2])  # max_pool2d has 2 dimensions of them
    if any(value.along(dim) is not None for dim in range(len(shape) - pixels, len(shape))):
        return None
    return Value(shape, value.tables)


def reduction(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Sum or average over dimensions: symmetric in the units that are summed over entirely."""
    value = arguments[0]
    given = arguments[1] if len(arguments) > 1 and arguments[1] is not None else range(len(value.shape))
    dims = {int(dim) % len(value.shape) for dim in ([given] if isinstance(given, int) else given)}
    if any(set(table.dims) & dims and not set(table.dims) <= dims for table in value.tables):
        return None
    kept = tuple(1 if dim in dims else size for dim, size in enumerate(value.shape))
    return Value(kept, without(value, sorted(dims))).reshaped(shape_of(node))


def softmax(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Hand on the input where the normalised dimension is not one of several of a table."""
    value, dim = arguments[0], int(arguments[1])
    table = value.along(dim)
    return None if table is not None and len(table.dims) > 1 else value
