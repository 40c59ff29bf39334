"""Derive the permutation spec of a model from its exported graph (``torch.export``).

Every position on an axis of a tensor carries a *label*. Operations join labels: a linear layer joins those of its input
with the columns of its weight and hands on those of its rows; an addition joins the labels of its two sides, one by
one (``rules.py``). What is left apart at the end is a unit, and units that appear at the same places in the same way
are exchangeable: they form a group. An operation without a rule freezes the labels that touch it; it never guesses.
"""

import warnings
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fl_market.errors import MarketError
from fl_market.permutation.labels import FROZEN, SLOTS, Array, Labels, Table, Value
from fl_market.permutation.rules import rule_for
from fl_market.permutation.spec import AxisUse, Group, Inside, PermutationSpec

Rows = tuple[int, int] | None
"""The rows of a tensor to which a statement about its second axis is restricted (grouped convolutions)."""
Place = tuple[str, int, Rows, int, str]
"""Tensor, axis, rows, slot, and the pieces that the tensor was split into behind it."""


def derive_spec(model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...]) -> PermutationSpec:
    """Return what may be permuted in ``model`` without changing the function that it computes in evaluation mode.

    Parameters
    ----------
    model
        Any module that ``torch.export`` can trace.
    example_inputs
        A batch as the model's ``forward`` takes it; only its shapes and dtypes matter.

    Returns
    -------
    PermutationSpec
        Inputs and outputs are frozen, and so is every axis that touches an operation without a rule.

    Raises
    ------
    MarketError
        If the model cannot be traced; the message names the place.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    modes = {module: module.training for module in model.modules()}
    try:
        # in evaluation mode: batch statistics of the example must not enter the running ones
        model.eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, inputs, strict=False)
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise MarketError(f"{type(model).__name__} cannot be traced: {reason.strip()}{_place(error)}") from error
    finally:
        for module, training in modes.items():
            module.training = training
    return Derivation(program, model).spec()


def _place(error: BaseException) -> str:
    """Return where in the user's own code tracing stopped."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if trace.tb_frame.f_code.co_name == "forward" and "/torch/" not in file:
            place = f" (at {file}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place


class Derivation:
    """One walk over the exported graph; the rules call its methods."""

    def __init__(self, program: torch.export.ExportedProgram, model: nn.Module) -> None:
        self.labels = Labels()
        self._graph = program.graph
        signature = program.graph_signature
        self._names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self._state = dict(model.state_dict(keep_vars=True))
        first: dict[int, str] = {}
        # tied weights have several names: the first stands for all
        self._canonical = {name: first.setdefault(id(tensor), name) for name, tensor in self._state.items()}
        self._axes: dict[tuple[str, int, Rows], Array] = {}
        self._parameters: dict[int, str] = {}
        self._heads: dict[bytes, tuple[Array, Array]] = {}
        self._group_of: dict[int, str] = {}
        aliases = list(self._canonical.values())
        self._used_once = {
            self._names[node.name]
            for node in program.graph.find_nodes(op="placeholder")
            if len(node.users) == 1 and aliases.count(self._canonical.get(self._names.get(node.name, ""), "")) == 1
        }

    def spec(self) -> PermutationSpec:
        """Walk over the graph, and gather what is left."""
        values: dict[fx.Node, Any] = {}
        for node in self._graph.nodes:
            values[node] = self._visit(node, values)
        return self._collect()

    # -- what rules use ---------------------------------------------------------------------------------------------

    def axis(self, tensor: str, axis: int, rows: Rows = None) -> Array:
        """Return the labels of one axis of a parameter or buffer, fresh on first use."""
        key = (self._canonical[tensor], axis, rows)
        if key not in self._axes:
            self._axes[key] = self.labels.fresh(self._state[tensor].shape[axis])
        return self._axes[key]

    def parameter_of(self, value: Value) -> str | None:
        """Return the name of the parameter or buffer that a value is, if it is one as it stands."""
        return self._parameters.get(id(value))

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
        """Join one dimension of a value with one of another; where only one carries labels, freeze them."""
        tables = [left.along(left_dim), right.along(right_dim)]
        if tables[0] is not None and tables[1] is not None and len(tables[0].dims) == len(tables[1].dims) == 1:
            self.join_axis(node, tables[0], right, right_dim)
            return
        for table in tables:
            if table is not None:
                self.labels.freeze(table.labels, f"{node.name}: joined with what is not permuted")

    def join_axis(self, node: fx.Node, table: Table | None, other: Value, dim: int) -> None:
        """Join a table with one dimension of a value.

        A parameter of which nothing else speaks takes over the labels as they are, with their slots (the pixels of a
        flattened channel) and their pieces.
        """
        along = other.along(dim)
        if table is None or along is None:
            return
        key = (self.parameter_of(other) or "", dim, None)
        if key[0] in self._used_once and table.labels.shape == along.labels.shape:
            self._axes[key] = table.labels
        else:
            self.labels.join(table.labels, along.labels, node.name)

    def heads(self, node: fx.Node, table: Table) -> Table | None:
        """Return labels of the heads of a table (heads, units inside), whose units must not leave their head."""
        if len(table.dims) == 1:
            return None
        flat = table.labels.reshape(-1, table.labels.shape[-1])
        tags = [(node.name, head) for head in range(len(flat)) for _ in range(flat.shape[1])]
        self.labels.tag(flat, tags)
        key = np.ascontiguousarray(flat).tobytes()
        if key not in self._heads:
            self._heads[key] = self.labels.fresh(len(flat)), flat
        return Table(table.dims[:-1], self._heads[key][0].reshape(table.labels.shape[:-1]))

    # -- the walk ---------------------------------------------------------------------------------------------------

    def _visit(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        if node.op == "placeholder":
            return self._input(node)
        arguments = fx.node.map_arg(tuple(node.args), lambda argument: values[argument])
        if node.op == "output":
            self.freeze(arguments, "the model's output")
            return None
        if node.op == "get_attr":
            meta = node.meta.get("val")
            return Value(tuple(meta.shape)) if isinstance(meta, Tensor) else None
        name, rule = rule_for(node)
        result = rule(self, node, arguments) if rule is not None else None
        if result is None:
            self.freeze(list(arguments), f"{node.name}: no rule for {name}")
            return self._unlabelled(node)
        return self._thawed(result)

    def _thawed(self, value: Any) -> Any:
        """Return a value without the tables that are frozen throughout: they say nothing any more."""
        if isinstance(value, tuple):
            return tuple(self._thawed(part) for part in value)
        if not isinstance(value, Value):
            return value
        tables = tuple(
            table
            for table in value.tables
            if any(self.labels.find(unit) != FROZEN for unit in np.unique(table.labels // SLOTS).tolist())
        )
        return value if len(tables) == len(value.tables) else Value(value.shape, tables)

    def _input(self, node: fx.Node) -> Value | None:
        meta = node.meta.get("val")
        if not isinstance(meta, Tensor):
            return None
        shape, name = tuple(meta.shape), self._names.get(node.name)
        if name is None or name not in self._state:
            return Value(shape)
        # an axis of size 1 is broadcast, and there is nothing to permute in it
        tables = (Table((axis,), self.axis(name, axis)) for axis, size in enumerate(shape) if size > 1)
        value = Value(shape, tuple(tables))
        self._parameters[id(value)] = name
        return value

    def _unlabelled(self, node: fx.Node) -> Any:
        meta = node.meta.get("val")
        if isinstance(meta, Tensor):
            return Value(tuple(meta.shape))
        if isinstance(meta, (tuple, list)):
            return tuple(Value(tuple(part.shape)) if isinstance(part, Tensor) else None for part in meta)
        return None

    # -- what is left -----------------------------------------------------------------------------------------------

    def _collect(self) -> PermutationSpec:
        blocked = {(tensor, axis) for tensor, axis, rows in self._axes if rows is not None}
        for key in [(tensor, axis, None) for tensor, axis in blocked]:
            # a grouped convolution speaks of its second axis block by block: the whole of it has no labels
            self._axes.pop(key, None)
        places = self._places()
        alike: dict[Hashable, list[int]] = defaultdict(list)
        # a head stands for the units inside it, too: it is permuted with them, or not at all
        heads_alone = {root for heads, _ in self._heads.values() for root in self._roots(heads)}
        for unit, found in places.items():
            if unit in heads_alone:
                continue
            alike[tuple(place for place, _ in found), self.labels.tags(unit)].append(unit)
        groups: dict[str, Group] = {}
        for units in alike.values():
            where = [place for place, _ in places[units[0]]]
            if len(units) > 1 and not _ambiguous(where):
                positions = [
                    np.array([[places[unit][index][1]] for unit in units]) for index in range(len(where))
                ]  # fmt: skip
                name = self._add(groups, where, positions)
                self._group_of.update(dict.fromkeys(units, name))
        for heads, inside in self._heads.values():
            self._add_heads(groups, places, heads, inside)
        buffers = frozenset(name for name, value in self._state.items() if not isinstance(value, nn.Parameter))
        return PermutationSpec(groups, self._frozen(), buffers)

    def _places(self) -> dict[int, list[tuple[Place, int]]]:
        places: dict[int, list[tuple[Place, int]]] = defaultdict(list)
        for (tensor, axis, rows), labels in self._axes.items():
            for position, label in enumerate(labels.tolist()):
                unit, slot = divmod(label, SLOTS)
                root = self.labels.find(unit)
                if root != FROZEN:
                    places[root].append(((tensor, axis, rows, slot, self.labels.role(unit)), position))
        for found in places.values():
            found.sort(key=lambda entry: (entry[0][:2], entry[0][2] or (-1, -1), entry[0][3:], entry[1]))
        return places

    def _add_heads(
        self, groups: dict[str, Group], places: dict[int, list[tuple[Place, int]]], heads: Array, inside: Array
    ) -> None:
        """Add the group that permutes heads as wholes: q, k, v and the columns behind them."""
        roots = self._roots(heads)
        # several tables of units (of q and k, of v) hang on the same heads: the first one adds them all
        tables = [table for labels, table in self._heads.values() if self._roots(labels) == roots]
        if FROZEN in roots or len(set(roots)) != len(roots) or inside is not tables[0]:
            return
        found: list[tuple[Place, Array]] = []
        for units in [[self._roots(row) for row in table] for table in tables] + [[[root] for root in roots]]:
            signatures = {tuple(place for place, _ in places.get(unit, [])) for row in units for unit in row}
            if len(signatures) != 1 or any(FROZEN in row for row in units):
                return
            for index, place in enumerate(signatures.pop()):
                found.append((place, np.array([[places[unit][index][1] for unit in row] for row in units])))
        where = [place for place, _ in found]
        if not where or _ambiguous(where):
            return
        name = self._add(groups, where, [positions for _, positions in found], suffix=" (heads)")
        for part, table in enumerate(tables):
            for head, row in enumerate(table):
                inner = self._group_of.get(self._roots(row)[0])
                if inner is not None:
                    groups[inner] = replace(groups[inner], inside=Inside(name, part, head))

    def _roots(self, labels: Array) -> list[int]:
        return [self.labels.find(int(label) // SLOTS) for label in labels]

    def _add(self, groups: dict[str, Group], where: Sequence[Place], columns: Sequence[Array], suffix: str = "") -> str:
        """Add a group and return its name; ``columns`` holds for each place an array (units, positions)."""
        uses = []
        for tensor, axis, rows in dict.fromkeys(place[:3] for place in where):
            chosen = [column for place, column in zip(where, columns, strict=True) if place[:3] == (tensor, axis, rows)]
            uses += [
                AxisUse(name, axis, np.concatenate(chosen, axis=1), rows)
                for name, canonical in self._canonical.items()
                if canonical == tensor
            ]
        order = list(self._state)
        uses.sort(key=lambda use: (order.index(use.tensor), use.axis, use.rows or (0, 0)))
        base = next((use.tensor for use in uses if use.axis == 0), uses[0].tensor) + suffix
        name, count = base, 1
        while name in groups:
            name, count = f"{base} [{count}]", count + 1
        groups[name] = Group(len(uses[0].positions), tuple(uses))
        return name

    def _frozen(self) -> dict[tuple[str, int], str]:
        """Return the axes of which some position may not be permuted, with the reason."""
        frozen = {}
        for (tensor, axis, _), labels in self._axes.items():
            units = np.unique(labels // SLOTS).tolist()
            if all(self.labels.find(unit) != FROZEN for unit in units):
                continue
            reasons = [self.labels.reasons[unit] for unit in units if unit in self.labels.reasons]
            frozen[tensor, axis] = reasons[0] if reasons else "joined with a frozen axis"
        known = {(tensor, axis) for tensor, axis, _ in self._axes}
        for tensor, value in self._state.items():
            for axis in range(value.dim()):
                if value.shape[axis] > 1 and (self._canonical[tensor], axis) not in known:
                    frozen[tensor, axis] = "not permuted by any operation"
        return frozen


def _ambiguous(where: Sequence[Place]) -> bool:
    """Whether a unit has two positions on one axis that nothing tells apart."""
    return len(set(where)) != len(where)
