"""Derive the permutation spec of a model from its exported graph (``torch.export``).

Every position on an axis of a tensor carries a *label*. Operations join labels. A linear layer
joins those of its input with the columns of its weight, and hands on those of its rows. An addition
joins the labels of its two sides, one by one (``rules/``). Labels that are still apart at the end
are units. Units that appear at the same places in the same way are exchangeable: they form a group
(``groups.py``). An operation without a rule freezes the labels that touch it; it never guesses.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fl_market.errors import MarketError
from fl_market.observation import evaluation_mode
from fl_market.permutation.groups import collect_spec
from fl_market.permutation.labels import FROZEN, SLOTS, Labels, Value
from fl_market.permutation.rules import operation_name, rule_for
from fl_market.permutation.spec import PermutationSpec
from fl_market.permutation.tracer import Tracer, canonical_names


def derive_spec(model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...]) -> PermutationSpec:
    """Return what may be permuted in ``model`` without changing the function that it computes.

    Parameters
    ----------
    model
        Any module that ``torch.export`` can trace. It is traced in evaluation mode.
    example_inputs
        A batch as the model's ``forward`` takes it; only its shapes and dtypes matter.

    Returns
    -------
    PermutationSpec
        Inputs and outputs are frozen, and so is every axis that touches an operation without a
        rule.

    Raises
    ------
    MarketError
        If the model cannot be traced; the message names the place.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> spec = derive_spec(model, torch.zeros(1, 4))
    >>> {name: group.size for name, group in spec.groups.items()}
    {'0.weight': 8}
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    try:
        # in evaluation mode: batch statistics of the example must not enter the running ones
        with evaluation_mode(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, inputs, strict=False)
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise MarketError(f"{type(model).__name__} cannot be traced: {reason.strip()}{_place(error)}") from error
    state = dict(model.state_dict(keep_vars=True))
    return collect_spec(_trace(program, state))


def _place(error: BaseException) -> str:
    """Return where in the user's own code tracing stopped."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if trace.tb_frame.f_code.co_name == "forward" and "/torch/" not in file:
            place = f" (at {file}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place


def _trace(program: torch.export.ExportedProgram, state: Mapping[str, Tensor]) -> Tracer:
    """Return the labels of a model after one walk over its exported graph."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    tracer = Tracer(state, _used_once(program.graph, names, state))
    values: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        values[node] = _visit(tracer, node, names, values)
    return tracer


def _used_once(graph: fx.Graph, names: Mapping[str, str], state: Mapping[str, Tensor]) -> set[str]:
    """Return the tensors that a single operation uses, and that are not tied."""
    canonical = canonical_names(state)
    aliases = list(canonical.values())
    return {
        names[node.name]
        for node in graph.find_nodes(op="placeholder")
        if len(node.users) == 1 and aliases.count(canonical.get(names.get(node.name, ""), "")) == 1
    }


def _visit(tracer: Tracer, node: fx.Node, names: Mapping[str, str], values: Mapping[fx.Node, Any]) -> Any:
    """Return the value of one node; its rule joins labels."""
    if node.op == "placeholder":
        return _input(tracer, node, names)
    arguments = fx.node.map_arg(tuple(node.args), lambda argument: values[argument])
    if node.op == "output":
        tracer.freeze(arguments, "the model's output")
        return None
    if node.op == "get_attr":
        meta = node.meta.get("val")
        return Value(tuple(meta.shape)) if isinstance(meta, Tensor) else None
    rule = rule_for(node)
    result = rule(tracer, node, arguments) if rule is not None else None
    if result is None:
        tracer.freeze(list(arguments), f"{node.name}: no rule for {operation_name(node)}")
        return _unlabelled(node)
    return _thawed(tracer.labels, result)


def _input(tracer: Tracer, node: fx.Node, names: Mapping[str, str]) -> Value | None:
    meta = node.meta.get("val")
    if not isinstance(meta, Tensor):
        return None
    name = names.get(node.name)
    return Value(tuple(meta.shape)) if name is None or name not in tracer.state else tracer.parameter(name)


def _thawed(labels: Labels, value: Any) -> Any:
    """Return a value without the tables that are frozen throughout: they say nothing any more."""
    if isinstance(value, tuple):
        return tuple(_thawed(labels, part) for part in value)
    if not isinstance(value, Value):
        return value
    tables = tuple(
        table
        for table in value.tables
        if any(labels.find(unit) != FROZEN for unit in np.unique(table.labels // SLOTS).tolist())
    )
    return value if len(tables) == len(value.tables) else Value(value.shape, tables)


def _unlabelled(node: fx.Node) -> Any:
    meta = node.meta.get("val")
    if isinstance(meta, Tensor):
        return Value(tuple(meta.shape))
    if isinstance(meta, (tuple, list)):
        return tuple(Value(tuple(part.shape)) if isinstance(part, Tensor) else None for part in meta)
    return None
