"""How operations join labels: one small function for each kind of ATen operation.

A rule takes the derivation, the node of the exported graph and the values of its arguments, and returns the node's
value. It returns None where it does not know: then everything that touches the operation is frozen.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx

from fl_market.permutation.labels import SLOTS, Array, Table, Value

if TYPE_CHECKING:
    from fl_market.permutation.derivation import Derivation

Result = Value | tuple[Value, ...] | None
Rule = Callable[["Derivation", fx.Node, Sequence[Any]], Result]


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's tensor."""
    return tuple(int(size) for size in node.meta["val"].shape)


def _axis(value: Value, dim: int) -> Table | None:
    """Return the table of one dimension, if it is a table of its own."""
    table = value.along(dim)
    return table if table is not None and len(table.dims) == 1 else None


def _without(value: Value, dims: Sequence[int]) -> tuple[Table, ...]:
    return tuple(table for table in value.tables if not set(table.dims) & set(dims))


def same(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Hand on the first argument: the operation treats every position alike."""
    value = arguments[0]
    return value if isinstance(value, Value) and value.shape == shape_of(node) else None


def arithmetic(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Join all operands position by position, with broadcasting (residual additions, gates)."""
    rank = len(shape_of(node))
    operands = [_aligned(argument, rank) for argument in arguments if isinstance(argument, Value)]
    result = operands[0]
    for operand in operands[1:]:
        result = _joined(derivation, node, result, operand)
    return result if result.shape == shape_of(node) else None


def _aligned(value: Value, rank: int) -> Value:
    """Return the value with leading dimensions of size 1, as broadcasting adds them."""
    shift = rank - len(value.shape)
    tables = (Table(tuple(dim + shift for dim in table.dims), table.labels) for table in value.tables)
    return Value((1,) * shift + value.shape, tuple(tables))


def _joined(derivation: "Derivation", node: fx.Node, left: Value, right: Value) -> Value:
    """Join two values of one rank; a dimension of size 1 is repeated along the other's, and takes its labels."""
    shape = tuple(max(a, b) for a, b in zip(left.shape, right.shape, strict=True))
    tables: list[Table] = []
    for value, other in ((left, right), (right, left)):
        for table in value.tables:
            twin = other.along(table.dims[0])
            if twin is not None and twin.dims == table.dims:
                derivation.labels.join(table.labels, twin.labels, node.name)
            elif any(other.along(dim) is not None or other.shape[dim] != 1 for dim in table.dims):
                derivation.labels.freeze(table.labels, f"{node.name}: joined with what is not permuted")
            if not any(set(own.dims) & set(table.dims) for own in tables):
                tables.append(table)
    return Value(shape, tuple(tables))


def linear(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Join the input's last dimension with the weight's columns; hand on its rows."""
    value, weight, *bias = arguments
    derivation.contract(node, value, len(value.shape) - 1, weight, 1)
    rows = weight.along(0)
    if bias and bias[0] is not None:
        derivation.join_axis(node, rows, bias[0], 0)
    last = len(value.shape) - 1
    labelled = () if rows is None else (Table((last,), rows.labels),)
    return Value(shape_of(node), _without(value, [last]) + labelled)


def convolution(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Join input channels with the weight's second axis; hand on its first. Groups stay apart."""
    value, weight, bias = (*arguments, None, None)[:3]
    groups = int(_argument(node, "groups", 6, 1))
    spatial = range(2, len(value.shape))
    if any(value.along(dim) is not None for dim in spatial) or value.shape[0] != shape_of(node)[0]:
        return None
    name = derivation.parameter_of(weight)
    channels = _axis(value, 1)
    out = weight.along(0).labels if weight.along(0) is not None else None
    if name is None or out is None:
        return None
    if groups == 1:
        derivation.contract(node, value, 1, weight, 1)
    elif channels is None:
        derivation.freeze(value, f"{node.name}: its channels are not permuted")
        derivation.labels.freeze(out, f"{node.name}: its groups are not permuted")
    elif weight.shape[1] == 1:
        # depthwise: each output channel belongs to one input channel
        per_channel = len(out) // groups
        units, slots = np.divmod(channels.labels, SLOTS)
        spread = (units * SLOTS + slots * per_channel)[:, None] + np.arange(per_channel)
        derivation.labels.join(out, spread.reshape(-1), node.name)
    else:
        rows = len(out) // groups
        derivation.labels.tag(out, [(node.name, position // rows) for position in range(len(out))])
        for group, labels in enumerate(channels.labels.reshape(groups, -1)):
            block = derivation.axis(name, 1, (group * rows, (group + 1) * rows))
            derivation.labels.join(labels, block, node.name)
    if bias is not None:
        derivation.join_axis(node, weight.along(0), bias, 0)
    for dim in spatial:
        derivation.freeze_axis(weight, dim, f"{node.name}: pixels")
    return Value(shape_of(node), (*_without(value, [1]), Table((1,), out)))


def transposed_convolution(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """As a convolution, with the weight's first two axes exchanged."""
    value, weight, bias = (*arguments, None, None)[:3]
    if int(_argument(node, "groups", 6, 1)) != 1 or any(value.along(dim) for dim in range(2, len(value.shape))):
        return None
    derivation.contract(node, value, 1, weight, 0)
    out = weight.along(1)
    if out is None:
        return None
    if bias is not None:
        derivation.join_axis(node, out, bias, 0)
    for dim in range(2, len(weight.shape)):
        derivation.freeze_axis(weight, dim, f"{node.name}: pixels")
    return Value(shape_of(node), (*_without(value, [1]), Table((1,), out.labels)))


def channel_norm(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Join channels with everything that a batch or instance norm, or a PReLU, keeps of them."""
    value, *parameters = arguments
    for parameter in parameters:
        if isinstance(parameter, Value) and parameter.shape != (1,):
            derivation.contract(node, value, 1, parameter, 0)
    return value if isinstance(value, Value) else None


def group_norm(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Join channels with weight and bias; channels of different groups must not be exchanged."""
    value, groups, *parameters = arguments
    channels = _axis(value, 1)
    if channels is not None and groups > 1:
        size = value.shape[1] // groups
        derivation.labels.tag(channels.labels, [(node.name, channel // size) for channel in range(value.shape[1])])
    return channel_norm(derivation, node, [value, *parameters])


def layer_norm(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Join the normalised dimensions with weight and bias."""
    value, normalised, *parameters = arguments
    dims = range(len(value.shape) - len(normalised), len(value.shape))
    for table in value.tables:
        if set(table.dims) & set(dims) and not set(table.dims) <= set(dims):
            derivation.labels.freeze(table.labels, f"{node.name}: a part of its units is normalised")
    for parameter in parameters:
        if isinstance(parameter, Value):
            for dim in dims:
                derivation.contract(node, value, dim, parameter, dim - dims[0])
    return value if isinstance(value, Value) else None


def pooling(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Hand on the channels of an operation on pixels."""
    value, shape = arguments[0], shape_of(node)
    pixels = int(rule_for(node)[0][-2])  # max_pool2d has 2 dimensions of them
    if any(value.along(dim) is not None for dim in range(len(shape) - pixels, len(shape))):
        return None
    return Value(shape, value.tables)


def moving(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Hand on the labels of an operation that pads, crops or rolls dimensions which carry none."""
    value, shape = arguments[0], shape_of(node)
    moved = {dim for dim, size in enumerate(shape) if size != value.shape[dim]}
    if node.target is torch.ops.aten.roll.default:
        moved |= {dim % len(shape) for dim in (arguments[2] if len(arguments) > 2 else range(len(shape)))}
    else:  # what is added at one end may be cut off at the other
        moved |= {len(shape) - 1 - place // 2 for place, amount in enumerate(arguments[1]) if amount}
    return None if any(value.along(dim) is not None for dim in moved) else Value(shape, value.tables)


def lookup(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Pick rows of a table by index (relative position biases): the rows are frozen, the other dimensions handed on."""
    value, indices = arguments
    if len(indices) != 1 or not isinstance(indices[0], Value):
        return None
    derivation.freeze(indices[0], f"{node.name}: an index")
    derivation.freeze_axis(value, 0, f"{node.name}: picked by index")
    shape = shape_of(node)
    shift = len(shape) - len(value.shape)
    tables = (Table(tuple(dim + shift for dim in t.dims), t.labels) for t in value.tables if 0 not in t.dims)
    return Value(shape, tuple(tables))


def reshape(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Split and merge dimensions (view, flatten, squeeze, …)."""
    value = arguments[0]
    return value.reshaped(shape_of(node)) if isinstance(value, Value) else None


def permute(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Reorder dimensions."""
    result: Value = arguments[0].permuted(arguments[1])
    return result


def transpose(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Exchange two dimensions."""
    value, first, second = (*arguments, 0, 1)[:3]
    order = list(range(len(value.shape)))
    order[first], order[second] = order[second], order[first]
    result: Value = value.permuted(order)
    return result


def expand(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Repeat dimensions of size 1, which carry no labels."""
    value, shape = arguments[0], shape_of(node)
    shift = len(shape) - len(value.shape)
    tables = tuple(Table(tuple(dim + shift for dim in table.dims), table.labels) for table in value.tables)
    if any(shape[dim] != value.shape[dim - shift] for table in tables for dim in table.dims):
        return None
    return Value(shape, tables)


def concatenate(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Put labels one after the other along the dimension, and join them along all others."""
    values, shape = arguments[0], shape_of(node)
    dim = (int(arguments[1]) if len(arguments) > 1 else 0) % len(shape)
    if any(len(table.dims) > 1 and dim in table.dims for value in values for table in value.tables):
        return None
    widened = [Value(shape, _without(value, [dim])) for value in values]
    others = widened[0]
    for value in widened[1:]:
        others = _joined(derivation, node, others, value)
    along = [value.along(dim) for value in values]
    if all(table is None for table in along):
        return others
    parts = [
        table.labels if table is not None else np.zeros(value.shape[dim], dtype=np.int64)
        for value, table in zip(values, along, strict=True)
    ]
    return Value(shape, (*others.tables, Table((dim,), np.concatenate(parts))))


def split(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Cut a dimension into pieces."""
    value = arguments[0]
    dim = (int(arguments[2]) if len(arguments) > 2 else 0) % len(value.shape)
    pieces, start = [], 0
    for piece in node.meta["val"]:
        size = int(piece.shape[dim])
        pieces.append(_taken(value, dim, np.arange(start, start + size), tuple(piece.shape)))
        _mark(derivation, pieces[-1], dim, f"{node.name}:{len(pieces)}")
        start += size
    return tuple(pieces)


def item(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Pick one of several results."""
    result: Value | None = arguments[0][arguments[1]] if isinstance(arguments[0], tuple) else None
    return result


def cut(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Take a slice of a dimension."""
    given = list(arguments[1:]) + [0, None, None, 1][len(arguments) - 1 :]
    value, (dim, start, stop, step) = arguments[0], given
    dim %= len(value.shape)
    index = np.arange(value.shape[dim])[slice(start, stop, step)]
    piece = _taken(value, dim, index, shape_of(node))
    if len(index) < value.shape[dim]:
        _mark(derivation, piece, dim, node.name)
    return piece


def select(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Take one position of a dimension, which disappears."""
    value, dim, index = arguments
    dim %= len(value.shape)
    table = value.along(dim)
    if table is not None and len(table.dims) == 1:
        derivation.labels.freeze(table.labels, f"{node.name}: picks one position")
        value = Value(value.shape, _without(value, [dim]))
    kept = _taken(value, dim, np.array([index % value.shape[dim]]), (*value.shape[:dim], 1, *value.shape[dim + 1 :]))
    _mark(derivation, kept, dim, node.name)
    return kept.reshaped(shape_of(node))


def _mark(derivation: "Derivation", piece: Value, dim: int, role: str) -> None:
    table = piece.along(dim)
    if table is not None:
        derivation.labels.mark(table.labels, role)


def _taken(value: Value, dim: int, index: Array, shape: tuple[int, ...]) -> Value:
    tables = (
        Table(table.dims, np.take(table.labels, index, axis=table.dims.index(dim))) if dim in table.dims else table
        for table in value.tables
    )
    return Value(shape, tuple(tables))


def reduction(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Sum or average over dimensions: symmetric in the units that are summed over entirely."""
    value = arguments[0]
    given = arguments[1] if len(arguments) > 1 and arguments[1] is not None else range(len(value.shape))
    dims = {int(dim) % len(value.shape) for dim in ([given] if isinstance(given, int) else given)}
    if any(set(table.dims) & dims and not set(table.dims) <= dims for table in value.tables):
        return None
    kept = tuple(1 if dim in dims else size for dim, size in enumerate(value.shape))
    return Value(kept, _without(value, sorted(dims))).reshaped(shape_of(node))


def softmax(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Hand on the input where the normalised dimension is not one of several of a table."""
    value, dim = arguments[0], int(arguments[1])
    table = value.along(dim)
    return None if table is not None and len(table.dims) > 1 else value


def matmul(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Join the contracted dimensions; batch dimensions that carry units are heads."""
    left, right = arguments[:2]
    rank = len(left.shape)
    if rank < 2 or (len(right.shape) not in (2, rank)):
        return None
    if len(right.shape) == 2:
        derivation.contract(node, left, rank - 1, right, 0)
        columns = right.along(1)
        labelled = () if columns is None else (Table((rank - 1,), columns.labels),)
        return Value(shape_of(node), _without(left, [rank - 1]) + labelled)
    return _batched(derivation, node, left, right)


def _batched(derivation: "Derivation", node: fx.Node, left: Value, right: Value) -> Result:
    rank = len(left.shape)
    inner = left.along(rank - 1), right.along(rank - 2)
    heads = None
    if inner[0] is not None and inner[1] is not None:
        if inner[0].dims[:-1] != inner[1].dims[:-1]:
            return None
        derivation.labels.join(inner[0].labels, inner[1].labels, node.name)
        heads = derivation.heads(node, inner[0])
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
    return _merge_heads(derivation, node, tables)


def _merge_heads(derivation: "Derivation", node: fx.Node, tables: list[Table]) -> Result:
    """Where one side carries heads and the other the units inside them, both are heads of the same attention."""
    result: list[Table] = []
    for table in sorted(tables, key=lambda table: -len(table.dims)):
        clash = next((own for own in result if set(own.dims) & set(table.dims)), None)
        if clash is None:
            result.append(table)
        elif clash.dims == table.dims:
            derivation.labels.join(clash.labels, table.labels, node.name)
        elif table.dims != clash.dims[:-1]:
            return None
    for table in result:
        inside = derivation.heads(node, table)
        if inside is None:
            continue
        outside = next((other for other in tables if other.dims == inside.dims), None)
        if outside is None:
            derivation.labels.freeze(inside.labels, f"{node.name}: its heads are not permuted")
        else:
            derivation.labels.join(inside.labels, outside.labels, node.name)
    return Value(shape_of(node), tuple(result))


def attention(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Scaled dot-product attention: heads are permuted as wholes, and the units inside a head of q and k, and of v."""
    query, key, value, *rest = arguments
    masked = any(isinstance(argument, Value) and argument.tables for argument in rest)
    tables = [operand.tables[0] for operand in (query, key, value) if len(operand.tables) == 1]
    if masked or len(tables) != 3 or len({(operand.shape[:-2]) for operand in (query, key, value)}) != 1:
        return None
    if len({table.dims for table in tables}) != 1 or tables[0].dims[-1] != len(query.shape) - 1:
        return None
    derivation.labels.join(tables[0].labels, tables[1].labels, node.name)
    scores, content = derivation.heads(node, tables[0]), derivation.heads(node, tables[2])
    if scores is not None and content is not None:
        derivation.labels.join(scores.labels, content.labels, node.name)
    return Value(shape_of(node), (tables[2],))


def embedding(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Hand on the columns of the table; its rows are the vocabulary."""
    weight = arguments[0]
    shape = shape_of(node)
    derivation.freeze_axis(weight, 0, f"{node.name}: the vocabulary")
    columns = weight.along(1)
    return Value(shape, () if columns is None else (Table((len(shape) - 1,), columns.labels),))


def constant(derivation: "Derivation", node: fx.Node, arguments: Sequence[Any]) -> Result:
    """Return a tensor that depends on no parameter."""
    return Value(shape_of(node))


def _argument(node: fx.Node, name: str, index: int, default: Any) -> Any:
    return node.kwargs.get(name, node.args[index] if len(node.args) > index else default)


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = (
    _table(
        same,
        "relu relu6 leaky_relu elu selu celu gelu silu mish sigmoid tanh softplus hardswish hardsigmoid hardtanh "
        "dropout contiguous clone detach alias to _to_copy neg abs exp "
        "log sqrt rsqrt square erf sin cos type_as lift_fresh_copy feature_dropout alpha_dropout "
        "logsigmoid hardshrink softshrink softsign",
    )
    | _table(
        arithmetic, "add sub mul div pow rsub maximum minimum where masked_fill addcmul rdiv clamp clamp_min clamp_max"
    )
    | _table(linear, "linear")
    | _table(convolution, "conv1d conv2d conv3d")
    | _table(transposed_convolution, "conv_transpose1d conv_transpose2d conv_transpose3d")
    | _table(channel_norm, "batch_norm instance_norm prelu")
    | _table(group_norm, "group_norm")
    | _table(layer_norm, "layer_norm rms_norm")
    | _table(
        pooling,
        "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
        "adaptive_avg_pool3d upsample_nearest2d upsample_bilinear2d",
    )
    | _table(moving, "roll constant_pad_nd pad")
    | _table(lookup, "index")
    | _table(reshape, "view reshape _unsafe_view flatten unflatten squeeze unsqueeze _reshape_alias view_as")
    | _table(permute, "permute")
    | _table(transpose, "transpose t swapaxes")
    | _table(expand, "expand expand_as")
    | _table(concatenate, "cat concat concatenate")
    | _table(split, "split chunk tensor_split split_with_sizes")
    | _table(item, "getitem")
    | _table(cut, "slice")
    | _table(select, "select")
    | _table(reduction, "mean sum")
    | _table(softmax, "softmax log_softmax _softmax")
    | _table(matmul, "matmul bmm mm")
    | _table(attention, "scaled_dot_product_attention")
    | _table(embedding, "embedding")
    | _table(constant, "arange zeros ones full zeros_like ones_like full_like scalar_tensor empty new_zeros new_ones")
)
"""The rule of each ATen operation, by its name without overload; an in-place variant shares it."""


def rule_for(node: fx.Node) -> tuple[str, Rule | None]:
    """Return the name of a node's operation, and its rule if there is one."""
    target = node.target
    name = getattr(target, "_opname", None) or getattr(target, "__name__", str(target)).split(".")[0]
    return name, RULES.get(name) or RULES.get(name.rstrip("_"))
