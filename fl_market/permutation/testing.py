"""A conformance test for alignment methods: run it on your own method before a market uses it."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fl_market.errors import MarketError
from fl_market.parameters import StateDict, copied
from fl_market.permutation.derivation import derive_spec
from fl_market.permutation.methods import AlignmentContext, AlignmentMethod
from fl_market.permutation.spec import (
    Permutation,
    PermutationSpec,
    apply_permutation,
    check_permutation,
    invert,
    random_permutation,
)

_SAMPLES = 64
_NOISE = 0.02
"""Of a planted copy: standard deviation, in those of the tensor."""
_TOLERANCE = 1e-4
"""Greatest difference of outputs that is rounding, relative to the largest output."""


@dataclass(frozen=True)
class AlignmentReport:
    """The behaviour of an alignment method that a market may use.

    Attributes
    ----------
    recovered
        Share of the units of a permuted copy with a little noise that come back to their place. A
        method that aligns nothing has almost none.
    observes
        Whether the result depends on the context's model and inputs.
    """

    recovered: float
    observes: bool


@dataclass(frozen=True)
class _Case:
    """Two models of one architecture, and what a market knows beside them."""

    name: str
    spec: PermutationSpec
    reference: StateDict
    other: StateDict
    model: nn.Module
    inputs: Tensor

    def context(self, start: Permutation | None = None) -> AlignmentContext:
        """Return a context of copies, so that a change shows."""
        return AlignmentContext(3, start, deepcopy(self.model), self.inputs.clone())

    def outputs(self, state: StateDict) -> Tensor:
        with torch.no_grad():
            outputs: Tensor = functional_call(self.model, dict(state), (self.inputs,), tie_weights=False)
        return outputs


def check_alignment_method(method: AlignmentMethod) -> AlignmentReport:
    """Return the behaviour of an alignment method on small models, or raise if it must not be used.

    The models are a perceptron, a residual network with BatchNorm, and attention with two heads.
    The contexts are those of a market: with and without a permutation to start from, and without a
    model and inputs, as between agents with different heads.

    - *Permutation of the spec*: one order of all units for each group.
    - *Function unchanged*: the aligned model computes the function that it computed before.
    - *Same seed, same result*: two calls with equal arguments give equal permutations.
    - *Inputs*: neither models nor context are changed.
    - *Itself*: a model aligned with itself stays as it is.

    Parameters
    ----------
    method
        Any alignment method.

    Returns
    -------
    AlignmentReport
        Properties that a method may have or lack.

    Raises
    ------
    AssertionError
        If one of the above is violated: all violations, each with an example.
    """
    violations: dict[str, str] = {}
    cases = _cases()
    for case in cases:
        for name, example in _violations(method, case):
            violations.setdefault(name, f"{case.name}, {example}")
    if violations:
        examples = "; ".join(f"{name}: {example}" for name, example in sorted(violations.items()))
        name = getattr(method, "__name__", repr(method))
        raise AssertionError(f"the alignment method {name!r} must not be used: {examples}")
    return AlignmentReport(
        recovered=float(np.mean([_recovered(method, case) for case in cases])),
        observes=any(_observes(method, case) for case in cases),
    )


def _violations(method: AlignmentMethod, case: _Case) -> Iterator[tuple[str, str]]:
    contexts = {
        "with a model": case.context(),
        "without a model": replace(case.context(), model=None, inputs=None),
        "with a start": case.context(random_permutation(case.spec, 5)),
    }
    for where, context in contexts.items():
        other = _clone(case.other)
        yield from _of_call(method, case, _clone(case.reference), other, context, where)
    for where in ("with a model", "without a model"):
        try:
            found = method(case.spec, _clone(case.reference), _clone(case.reference), contexts[where])
            aligned = apply_permutation(case.spec, found, case.reference)
        except Exception:  # noqa: S112  (a violation that is named already)
            continue
        if not _identical(aligned, case.reference):
            yield "itself", f"{where}: a model aligned with itself changes"


def _of_call(
    method: AlignmentMethod,
    case: _Case,
    reference: dict[str, Tensor],
    other: dict[str, Tensor],
    context: AlignmentContext,
    where: str,
) -> Iterator[tuple[str, str]]:
    """Yield the violations of one call, on arguments that may be changed."""
    before = deepcopy((reference, other, context))
    try:
        found = method(case.spec, reference, other, context)
        _check_orders(case.spec, found)
        again = method(case.spec, *before[:2], deepcopy(before[2]))
    except Exception as error:
        yield "permutation of the spec", f"{where}: {type(error).__name__}: {error}"
        return
    if not all(np.array_equal(found[name], again[name]) for name in case.spec.groups):
        yield "same seed, same result", f"{where}: two equal calls give two permutations"
    changed = [
        name
        for name, after, origin in (
            ("the reference", reference, case.reference),
            ("the other model", other, case.other),
            ("the context's model", _state(context), _state(before[2])),
        )
        if not _identical(after, origin)
    ]
    if _rest_changed(context, before[2]):
        changed.append("the context")
    if changed:
        yield "inputs", f"{where}: the method changes {changed[0]}"
    outputs, expected = case.outputs(apply_permutation(case.spec, found, other)), case.outputs(case.other)
    if not float((outputs - expected).abs().max()) <= _TOLERANCE * float(expected.abs().max()):
        yield "function unchanged", f"{where}: the aligned model has other outputs"


def _check_orders(spec: PermutationSpec, permutation: Permutation) -> None:
    check_permutation(spec, permutation)
    for name in spec.groups:
        if np.asarray(permutation[name]).dtype.kind != "i":
            raise MarketError(f"the order of the group {name!r} must be an array of integers")


def _state(context: AlignmentContext) -> StateDict:
    return {} if context.model is None else context.model.state_dict()


def _rest_changed(context: AlignmentContext, before: AlignmentContext) -> bool:
    """Whether a call changed the mode of the model, the inputs or the start."""
    if context.model is not None and before.model is not None:
        modes = ([module.training for module in model.modules()] for model in (context.model, before.model))
        if len(set(map(tuple, modes))) > 1:
            return True
    if context.inputs is not None and before.inputs is not None and not torch.equal(context.inputs, before.inputs):
        return True
    if context.start is None or before.start is None:
        return False
    return any(not np.array_equal(order, before.start[name]) for name, order in context.start.items())


def _recovered(method: AlignmentMethod, case: _Case) -> float:
    """Return the share of units of a planted permutation that are found again."""
    planted = random_permutation(case.spec, 11)
    generator = torch.Generator().manual_seed(1)
    noisy = {
        name: tensor + _NOISE * tensor.std() * torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point() and tensor.numel() > 1
        else tensor
        for name, tensor in case.reference.items()
    }
    found = method(case.spec, case.reference, apply_permutation(case.spec, planted, noisy), case.context())
    expected = invert(case.spec, planted)
    right = sum(int((found[name] == expected[name]).sum()) for name in case.spec.groups)
    return right / sum(group.size for group in case.spec.groups.values())


def _observes(method: AlignmentMethod, case: _Case) -> bool:
    blind = replace(case.context(), model=None, inputs=None)
    seeing, unseeing = (method(case.spec, case.reference, case.other, context) for context in (case.context(), blind))
    return any(not np.array_equal(seeing[name], unseeing[name]) for name in case.spec.groups)


def _clone(state: StateDict) -> dict[str, Tensor]:
    clone = copied(state)
    clone.update({name: tensor.clone() for name, tensor in state.items()})
    return clone


def _identical(one: StateDict, other: StateDict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class _Residual(nn.Module):
    """Convolutions on a residual stream, with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.outer = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        stream = torch.relu(self.norm(self.first(images)))
        stream = stream + self.outer(torch.relu(self.inner(stream)))
        outputs: Tensor = self.head(stream.mean((2, 3)))
        return outputs


class _Attention(nn.Module):
    """One block of attention with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.packed, self.projection, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, time, width = tokens.shape
        parts = (part.view(batch, time, 2, -1).transpose(1, 2) for part in self.packed(tokens).chunk(3, dim=-1))
        mixed = nn.functional.scaled_dot_product_attention(*parts)
        outputs: Tensor = self.head(torch.relu(self.projection(mixed.transpose(1, 2).reshape(batch, time, width))))
        return outputs


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))


def _cases() -> list[_Case]:
    """Return pairs of models, drawn at random without touching the global generator."""
    builds = (
        ("a perceptron", _perceptron, (5,)),
        ("a residual network", _Residual, (2, 5, 5)),
        ("attention", _Attention, (4, 8)),
    )
    cases = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, build, shape in builds:
            model, one, other = (build().eval() for _ in range(3))
            inputs = torch.randn(_SAMPLES, *shape)
            spec = derive_spec(model, inputs[:2])
            # a model that was permuted at random has no order that a method could count on
            start = apply_permutation(spec, random_permutation(spec, 2), one)
            cases.append(_Case(name, spec, start, other.state_dict(), model, inputs))
    return cases
