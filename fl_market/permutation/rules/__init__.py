"""How operations join labels: one small function for each kind of ATen operation.

A rule of a further operation is a function of the type ``Rule`` and an entry in ``RULES``.
"""

from torch import fx

from fl_market.permutation.rules.attention import attention, matmul
from fl_market.permutation.rules.common import Rule, operation_name
from fl_market.permutation.rules.elementwise import arithmetic, constant, same
from fl_market.permutation.rules.layers import convolution, embedding, linear, lookup, transposed_convolution
from fl_market.permutation.rules.norms import channel_norm, group_norm, layer_norm, pooling, reduction, softmax
from fl_market.permutation.rules.shapes import (
    concatenate,
    cut,
    expand,
    item,
    moving,
    permute,
    reshape,
    select,
    split,
    transpose,
)

__all__ = ["RULES", "Rule", "operation_name", "rule_for"]


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


def rule_for(node: fx.Node) -> Rule | None:
    """Return the rule of a node's operation, if there is one."""
    name = operation_name(node)
    return RULES.get(name) or RULES.get(name.rstrip("_"))
