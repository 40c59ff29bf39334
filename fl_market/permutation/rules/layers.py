"""Rules for layers with weights: linear, convolution, embedding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from fl_market.permutation.labels import SLOTS, Table, Value
from fl_market.permutation.rules.common import Result, own_table, shape_of, without
from fl_market.permutation.tracer import Tracer


def linear(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Join the input's last dimension with the weight's columns; hand on its rows."""
    value, weight, *bias = arguments
    tracer.contract(node, value, len(value.shape) - 1, weight, 1)
    rows = weight.along(0)
    if bias and bias[0] is not None:
        tracer.join_axis(node, rows, bias[0], 0)
    last = len(value.shape) - 1
    labelled = () if rows is None else (Table((last,), rows.labels),)
    return Value(shape_of(node), without(value, [last]) + labelled)


def convolution(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Join input channels with the weight's second axis; hand on its first. Groups stay apart."""
    value, weight, bias = (*arguments, None, None)[:3]
    groups = int(_argument(node, "groups", 6, 1))
    spatial = range(2, len(value.shape))
    if any(value.along(dim) is not None for dim in spatial) or value.shape[0] != shape_of(node)[0]:
        return None
    name = tracer.parameter_of(weight)
    channels = own_table(value, 1)
    out = weight.along(0).labels if weight.along(0) is not None else None
    if name is None or out is None:
        return None
    if groups == 1:
        tracer.contract(node, value, 1, weight, 1)
    elif channels is None:
        tracer.freeze(value, f"{node.name}: its channels are not permuted")
        tracer.labels.freeze(out, f"{node.name}: its groups are not permuted")
    elif weight.shape[1] == 1:
        # depthwise: each output channel belongs to one input channel
        per_channel = len(out) // groups
        units, slots = np.divmod(channels.labels, SLOTS)
        spread = (units * SLOTS + slots * per_channel)[:, None] + np.arange(per_channel)
        tracer.labels.join(out, spread.reshape(-1), node.name)
    else:
        rows = len(out) // groups
        tracer.labels.tag(out, [(node.name, position // rows) for position in range(len(out))])
        for group, labels in enumerate(channels.labels.reshape(groups, -1)):
            block = tracer.axis(name, 1, (group * rows, (group + 1) * rows))
            tracer.labels.join(labels, block, node.name)
    if bias is not None:
        tracer.join_axis(node, weight.along(0), bias, 0)
    for dim in spatial:
        tracer.freeze_axis(weight, dim, f"{node.name}: pixels")
    return Value(shape_of(node), (*without(value, [1]), Table((1,), out)))


def transposed_convolution(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """As a convolution, with the weight's first two axes exchanged."""
    value, weight, bias = (*arguments, None, None)[:3]
    if int(_argument(node, "groups", 6, 1)) != 1 or any(value.along(dim) for dim in range(2, len(value.shape))):
        return None
    tracer.contract(node, value, 1, weight, 0)
    out = weight.along(1)
    if out is None:
        return None
    if bias is not None:
        tracer.join_axis(node, out, bias, 0)
    for dim in range(2, len(weight.shape)):
        tracer.freeze_axis(weight, dim, f"{node.name}: pixels")
    return Value(shape_of(node), (*without(value, [1]), Table((1,), out.labels)))


def embedding(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Hand on the columns of the table; its rows are the vocabulary."""
    weight = arguments[0]
    shape = shape_of(node)
    tracer.freeze_axis(weight, 0, f"{node.name}: the vocabulary")
    columns = weight.along(1)
    return Value(shape, () if columns is None else (Table((len(shape) - 1,), columns.labels),))


def lookup(tracer: Tracer, node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Freeze the rows that an index picks (relative position biases); hand on the other axes."""
    value, indices = arguments
    if len(indices) != 1 or not isinstance(indices[0], Value):
        return None
    tracer.freeze(indices[0], f"{node.name}: an index")
    tracer.freeze_axis(value, 0, f"{node.name}: picked by index")
    shape = shape_of(node)
    shift = len(shape) - len(value.shape)
    tables = (Table(tuple(dim + shift for dim in t.dims), t.labels) for t in value.tables if 0 not in t.dims)
    return Value(shape, tuple(tables))


def _argument(node: fx.Node, name: str, index: int, default: Any) -> Any:
    return node.kwargs.get(name, node.args[index] if len(node.args) > index else default)
