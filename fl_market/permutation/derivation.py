"""Derive the permutation spec of a model from its traced graph (``torch.fx``).

Every position on an axis of a tensor carries a *label*. Operations join labels: a linear layer joins those of its
input with the columns of its weight and hands on those of its rows; an addition joins the labels of its two sides,
one by one. What is left apart at the end is a unit, and units that appear at the same places in the same way are
exchangeable: they form a group. An operation without a rule freezes the labels that touch it; it never guesses.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from fl_market.errors import MarketError
from fl_market.permutation.spec import AxisUse, Group, PermutationSpec

Axis = NDArray[np.int64] | None
"""Labels along one axis, or None where the positions of the axis may not be permuted (batch, pixels, time)."""
Value = tuple[Axis, ...]
"""The axes of one tensor in the graph."""

_Place = tuple[str, int, int, int]
"""Tensor, axis, slot and position."""
_SLOTS = (
    1 << 20
)  # a label is unit * _SLOTS + slot; a slot is a position inside a unit, as a pixel in a flattened channel


def derive_spec(model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...]) -> PermutationSpec:
    """Return what may be permuted in ``model`` without changing the function that it computes.

    Parameters
    ----------
    model
        Any module that ``torch.fx`` can trace symbolically.
    example_inputs
        A batch as the model's ``forward`` takes it; only its shapes matter.

    Returns
    -------
    PermutationSpec
        Inputs and outputs are frozen, and so is every axis that touches an operation without a rule here.

    Raises
    ------
    MarketError
        If the model cannot be traced; the message names the place.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    try:
        traced = fx.symbolic_trace(model)
        # in evaluation mode: batch statistics of the example must not enter the running ones
        modes = {module: module.training for module in model.modules()}
        traced.eval()
        with torch.no_grad():
            ShapeProp(traced).propagate(*inputs)
        for module, training in modes.items():
            module.training = training
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MarketError(f"{type(model).__name__} cannot be traced by torch.fx: {reason}") from error
    return _Derivation(traced, model).spec()


class _Labels:
    """Union-find over units; unit 0 stands for "frozen" and absorbs whatever is joined with it."""

    def __init__(self) -> None:
        self.parent = [0]
        self.reason: dict[int, str] = {}

    def fresh(self, size: int) -> NDArray[np.int64]:
        first = len(self.parent)
        self.parent.extend(range(first, first + size))
        return np.arange(first, first + size, dtype=np.int64) * _SLOTS

    def find(self, unit: int) -> int:
        while self.parent[unit] != unit:
            self.parent[unit] = self.parent[self.parent[unit]]
            unit = self.parent[unit]
        return unit

    def freeze(self, labels: Axis, reason: str) -> None:
        for unit in {int(label) // _SLOTS for label in labels} if labels is not None else ():
            root = self.find(unit)
            if root:
                self.parent[root] = 0
                self.reason[root] = reason

    def join(self, left: Axis, right: Axis, reason: str) -> None:
        """Join two axes position by position; what cannot be joined is frozen, with the reason."""
        if left is None or right is None or len(left) != len(right):
            self.freeze(left, reason)
            self.freeze(right, reason)
            return
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            (unit_a, slot_a), (unit_b, slot_b) = divmod(a, _SLOTS), divmod(b, _SLOTS)
            root_a, root_b = self.find(unit_a), self.find(unit_b)
            if root_a == root_b and slot_a == slot_b:
                continue
            if slot_a != slot_b or not root_a or not root_b:
                self.freeze(left[left == a], reason)
                self.freeze(right[right == b], reason)
            else:
                self.parent[max(root_a, root_b)] = min(root_a, root_b)


@dataclass(frozen=True)
class _Call:
    """One node of the graph, with what a rule needs to know of it."""

    node: fx.Node
    module: nn.Module | None
    inputs: tuple[Value, ...]
    shape: tuple[int, ...]
    prefix: str


class _Derivation:
    """One walk over the graph."""

    def __init__(self, traced: fx.GraphModule, model: nn.Module) -> None:
        self.traced = traced
        self.labels = _Labels()
        self.state = model.state_dict(keep_vars=True)
        self.axes: dict[tuple[str, int], NDArray[np.int64]] = {}
        self.canonical = self._canonical_names()

    def _canonical_names(self) -> dict[str, str]:
        """Return for each tensor the first name under which it appears (tied weights have several)."""
        first: dict[int, str] = {}
        return {name: first.setdefault(id(tensor), name) for name, tensor in self.state.items()}

    def spec(self) -> PermutationSpec:
        values: dict[fx.Node, Value | None] = {}
        for node in self.traced.graph.nodes:
            values[node] = self._visit(node, values)
        return self._collect()

    def axis_of(self, tensor: str, axis: int) -> NDArray[np.int64]:
        """Return the labels of one axis of a parameter or buffer, fresh on first use."""
        key = (self.canonical[tensor], axis)
        if key not in self.axes:
            self.axes[key] = self.labels.fresh(self.state[tensor].shape[axis])
        return self.axes[key]

    def _visit(self, node: fx.Node, values: Mapping[fx.Node, Value | None]) -> Value | None:
        shape = _shape(node)
        if node.op == "placeholder":
            return (None,) * len(shape)
        if node.op == "get_attr":
            return tuple(self.axis_of(str(node.target), axis) for axis in range(len(shape)))
        inputs = tuple(values[argument] for argument in node.all_input_nodes)
        if node.op == "output":
            for value in inputs:
                self._freeze_value(value, "the model's output")
            return None
        module = self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        rule = _rule(node, module)
        tensors = tuple(value for value in inputs if value is not None)
        if rule is not None and len(tensors) == len(inputs):
            prefix = f"{node.target}." if module is not None else ""
            result = rule(self, _Call(node, module, tensors, shape, prefix))
            if result is not None:
                return result
        name = type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))
        for value in inputs:
            self._freeze_value(value, f"{node.name}: no rule for {name}")
        return (None,) * len(shape)

    def _freeze_value(self, value: Value | None, reason: str) -> None:
        for axis in value or ():
            self.labels.freeze(axis, reason)

    def _collect(self) -> PermutationSpec:
        """Gather the units that are left, and group those that appear alike."""
        places: dict[int, list[_Place]] = defaultdict(list)
        for (tensor, axis), labels in self.axes.items():
            for position, label in enumerate(labels.tolist()):
                unit, slot = divmod(label, _SLOTS)
                if root := self.labels.find(unit):
                    places[root].append((tensor, axis, slot, position))
        alike: dict[tuple[tuple[str, int, int], ...], list[list[_Place]]] = defaultdict(list)
        for where in places.values():
            where.sort()
            alike[tuple(place[:3] for place in where)].append(where)

        order = list(self.state)
        groups: dict[str, Group] = {}
        for signature, units in alike.items():
            if len(units) < 2:
                continue
            uses = self._uses(signature, np.array([[place[3] for place in where] for where in units]))
            name = min((use.tensor for use in uses if use.axis == 0), key=order.index, default=uses[0].tensor)
            while name in groups:
                name += "'"
            groups[name] = Group(len(units), tuple(uses))
        return PermutationSpec(groups, self._frozen())

    def _uses(self, signature: tuple[tuple[str, int, int], ...], positions: NDArray[np.int64]) -> list[AxisUse]:
        """Return the uses of units that appear alike; tied weights are used under each of their names."""
        return [
            AxisUse(
                name,
                axis,
                positions[:, [column for column, place in enumerate(signature) if place[:2] == (tensor, axis)]],
            )
            for tensor, axis in dict.fromkeys(place[:2] for place in signature)
            for name, canonical in self.canonical.items()
            if canonical == tensor
        ]

    def _frozen(self) -> dict[tuple[str, int], str]:
        """Return the axes of which some position may not be permuted, with the reason."""
        frozen = {}
        for (tensor, axis), labels in self.axes.items():
            units = [int(unit) for unit in np.unique(labels // _SLOTS)]
            if all(self.labels.find(unit) for unit in units):
                continue
            reasons = [self.labels.reason[unit] for unit in units if unit in self.labels.reason]
            frozen[tensor, axis] = reasons[0] if reasons else "joined with a frozen axis"
        for tensor, value in self.state.items():
            for axis in range(value.dim()):
                if (self.canonical[tensor], axis) not in self.axes:
                    frozen[tensor, axis] = "not permuted by any operation"
        return frozen


def _shape(node: fx.Node) -> tuple[int, ...]:
    meta: Any = node.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else ()


Rule = Callable[[_Derivation, _Call], Value | None]


def _linear(derivation: _Derivation, call: _Call) -> Value:
    """Join the input's last axis with the weight's columns; hand on its rows."""
    value = call.inputs[0]
    derivation.labels.join(value[-1], derivation.axis_of(call.prefix + "weight", 1), "the model's input")
    rows = derivation.axis_of(call.prefix + "weight", 0)
    if getattr(call.module, "bias", None) is not None:
        derivation.labels.join(rows, derivation.axis_of(call.prefix + "bias", 0), "bias")
    return (*value[:-1], rows)


def _elementwise(derivation: _Derivation, call: _Call) -> Value | None:
    """Hand on the input of an operation that treats every position alike."""
    return call.inputs[0] if len(call.inputs) == 1 else None


def _arithmetic(derivation: _Derivation, call: _Call) -> Value | None:
    """Join the axes of two operands position by position (a residual addition, a gate)."""
    if len(call.inputs) == 1:
        return call.inputs[0]
    if len(call.inputs) != 2:
        return None
    left, right = call.inputs
    if len(left) != len(right) or any(
        a is not None and b is not None and len(a) != len(b) for a, b in zip(left, right, strict=True)
    ):
        return None
    for a, b in zip(left, right, strict=True):
        derivation.labels.join(a, b, call.node.name)
    return left


def _flatten(derivation: _Derivation, call: _Call) -> Value | None:
    """Give each flattened position the label of its channel, and its place among the pixels as a slot."""
    value, before, after = call.inputs[0], _shape(call.node.all_input_nodes[0]), call.shape
    kept = len(after) - 1
    if before[:kept] != after[:kept] or any(axis is not None for axis in value[:1] + value[kept + 1 :]):
        return None
    labels = value[kept]
    if labels is None:
        return (*value[:kept], None)
    pixels = after[-1] // before[kept]
    slots = labels % _SLOTS
    if pixels * (int(slots.max()) + 1) > _SLOTS:
        return None
    flattened = (labels - slots)[:, None] + slots[:, None] * pixels + np.arange(pixels)
    return (*value[:kept], flattened.reshape(-1))


_ELEMENTWISE_MODULES: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Softplus, nn.Softsign, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Dropout, nn.Identity,
)  # fmt: skip
_MODULE_RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Flatten: _flatten,
    **dict.fromkeys(_ELEMENTWISE_MODULES, _elementwise),
}
_ELEMENTWISE_FUNCTIONS = ("relu", "gelu", "silu", "sigmoid", "tanh", "dropout", "leaky_relu", "contiguous", "clone")
_FUNCTION_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE_FUNCTIONS, _elementwise),
    **dict.fromkeys(("add", "iadd", "sub", "mul", "imul"), _arithmetic),
    "flatten": _flatten,
}


def _rule(node: fx.Node, module: nn.Module | None) -> Rule | None:
    if module is not None:
        return _MODULE_RULES.get(type(module))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return _FUNCTION_RULES.get(name)
