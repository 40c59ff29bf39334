"""A conformance test for merge methods: run it on your own method before a market uses it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_market.merging.interpolation import Alpha
from fl_market.merging.methods import MergeMethod
from fl_market.parameters import StateDict

_WEIGHTS = (0.0, 0.05, 0.5, 0.95, 1.0)
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 3e-2}
"""Greatest absolute error that is rounding, for parameters of the size 1."""

Violation = tuple[str, str]
"""The property that does not hold, and an example."""


@dataclass(frozen=True)
class MergeReport:
    """The behaviour of a merge method that a market may use.

    Attributes
    ----------
    seller_at_one
        Whether a merge at α = 1 is the seller's model. A method need not have this property.
    symmetric
        Whether buyer and seller can change sides, with 1 - α for α.
    vectorised
        Whether ``torch.vmap`` runs it for several α at once, as ``fit_weights(together=True)``
        does.
    """

    seller_at_one: bool
    symmetric: bool
    vectorised: bool


@dataclass(frozen=True)
class _Case:
    """A buyer and a seller; ``shared`` names a tensor that is one object in both."""

    name: str
    buyer: StateDict
    seller: StateDict
    shared: str

    def copies(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return copies of both models that share the shared tensor."""
        buyer, seller = (
            {name: tensor.clone() for name, tensor in model.items()} for model in (self.buyer, self.seller)
        )
        seller[self.shared] = buyer[self.shared]
        return buyer, seller

    def mapping(self, alpha: float, *, by_row: bool) -> dict[str, Tensor]:
        """Return one weight for each floating-point tensor, or for each of its rows."""
        weights = {}
        for name, tensor in self.buyer.items():
            if tensor.is_floating_point():
                rows = tensor.shape[0] if by_row and tensor.dim() else 1
                weights[name] = torch.full([rows, *[1] * (tensor.dim() - 1)] if tensor.dim() else [], alpha)
        return weights


def check_merge_method(method: MergeMethod) -> MergeReport:
    """Return the behaviour of a merge method on small models, or raise if it must not be used.

    - *Forms of α*: a number and a mapping, with weights for layers and for rows, are accepted.
    - *Buyer at zero*: a merge at α = 0 is the buyer's model, to rounding.
    - *Same tensors*: names, shapes and dtypes are the buyer's.
    - *Finite*: no merged value is NaN or infinite.
    - *Integers*: integer tensors (counters) are the buyer's.
    - *Shared tensors*: a tensor that is one object in both, as in a partial purchase, stays as it
      is.
    - *Inputs*: neither model nor the weights are changed.
    - *Differentiable*: each weight of a mapping has a finite gradient.

    Parameters
    ----------
    method
        Any merge method.

    Returns
    -------
    MergeReport
        Properties that a method may have or lack.

    Raises
    ------
    AssertionError
        If one of the above is violated: all violations, each with an example.
    """
    violations: dict[str, str] = {}
    for case in _cases():
        for name, example in _violations(method, case):
            violations.setdefault(name, f"{case.name}: {example}")
    if violations:
        examples = "; ".join(f"{name}: {example}" for name, example in sorted(violations.items()))
        raise AssertionError(f"the merge method {_name(method)!r} must not be used: {examples}")
    return MergeReport(
        seller_at_one=all(_equal(method(case.buyer, case.seller, 1.0), case.seller) for case in _cases()),
        symmetric=all(
            _equal(method(case.buyer, case.seller, 0.3), method(case.seller, case.buyer, 0.7)) for case in _cases()
        ),
        vectorised=all(_vectorised(method, case) for case in _cases()),
    )


def _cases() -> list[_Case]:
    """Return pairs of models with weights, biases, a scalar and a counter, by precision."""
    cases = []
    for dtype in _TOLERANCE:
        generator = torch.Generator().manual_seed(0)
        shapes = {"first.weight": (4, 3), "first.bias": (4,), "scale": (), "kernel.weight": (3, 2, 2, 2)}
        models: list[dict[str, Tensor]] = [
            {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
            | {"norm.num_batches_tracked": torch.tensor(count)}
            for count in (7, 9)
        ]
        models[1]["first.bias"] = models[0]["first.bias"]
        cases.append(_Case(f"a model in {dtype}", models[0], models[1], "first.bias"))
        far = {name: tensor * (-1 if tensor.is_floating_point() else 1) for name, tensor in models[0].items()}
        far["first.bias"] = models[0]["first.bias"]
        cases.append(_Case(f"a model in {dtype} and its negative", models[0], far, "first.bias"))
    return cases


def _violations(method: MergeMethod, case: _Case) -> Iterator[Violation]:
    for form, alpha_of in _forms(case):
        for weight in _WEIGHTS:
            (buyer, seller), alpha = case.copies(), alpha_of(weight)
            try:
                merged = method(buyer, seller, alpha)
            except Exception as error:
                yield "forms of α", f"α = {weight} as {form} raises {type(error).__name__}: {error}"
                continue
            where = f"at α = {weight} as {form}"
            given = zip((buyer, seller, alpha), (case.buyer, case.seller, alpha_of(weight)), strict=True)
            if not all(_identical(after, before) for after, before in given):
                yield "inputs", f"{where}, the method changes its arguments"
            yield from _of_result(merged, case, weight, where)
    yield from _differentiability(method, case)


def _forms(case: _Case) -> list[tuple[str, Callable[[float], Alpha]]]:
    return [
        ("a number", lambda alpha: alpha),
        ("a mapping for layers", lambda alpha: case.mapping(alpha, by_row=False)),
        ("a mapping for rows", lambda alpha: case.mapping(alpha, by_row=True)),
    ]


def _of_result(merged: StateDict, case: _Case, weight: float, where: str) -> Iterator[Violation]:
    """Yield the violations that a merged model shows by itself."""
    wrong = sorted(merged.keys() ^ case.buyer.keys()) or [
        name
        for name, tensor in case.buyer.items()
        if (merged[name].shape, merged[name].dtype) != (tensor.shape, tensor.dtype)
    ]
    if wrong:
        yield "same tensors", f"{where}, {wrong[0]!r} differs from the buyer's"
        return
    for name, tensor in case.buyer.items():
        if not tensor.is_floating_point():
            if not torch.equal(merged[name], tensor):
                yield "integers", f"{where}, {name!r} is {merged[name].tolist()}; the buyer's is {tensor.tolist()}"
        elif not bool(torch.isfinite(merged[name]).all()):
            yield "finite", f"{where}, {name!r} has NaN or infinite values"
        elif not _close(merged[name], tensor):
            if weight == 0:
                yield "buyer at zero", f"{where}, {name!r} is not the buyer's"
            elif name == case.shared:
                yield "shared tensors", f"{where}, {name!r} changes, which is the same in both models"


def _differentiability(method: MergeMethod, case: _Case) -> Iterator[Violation]:
    for by_row in (False, True):
        alpha = {name: some.requires_grad_() for name, some in case.mapping(0.3, by_row=by_row).items()}
        # of a shared tensor the result does not depend on the weight
        wanted = {name: some for name, some in alpha.items() if name != case.shared}
        try:
            merged = method(case.buyer, case.seller, alpha)
            total = torch.stack([(merged[name] * (case.seller[name] + 0.5)).sum().double() for name in wanted]).sum()
            gradients = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
        except Exception as error:
            yield "differentiable", f"the gradient raises {type(error).__name__}: {error}"
            return
        for name, gradient in zip(wanted, gradients, strict=True):
            if gradient is None or not bool(torch.isfinite(gradient).all()):
                yield "differentiable", f"the weight of {name!r} has no finite gradient"


def _vectorised(method: MergeMethod, case: _Case) -> bool:
    names = list(case.mapping(0.5, by_row=False))

    def merged(alpha: Tensor) -> dict[str, Tensor]:
        found = method(case.buyer, case.seller, dict.fromkeys(names, alpha))
        return {name: found[name] for name in names if name != case.shared}

    alphas = torch.tensor([0.25, 0.5])
    try:
        together = torch.vmap(merged)(alphas)
    except Exception:
        return False
    return all(
        _close(some[place], merged(alpha)[name])
        for name, some in together.items()
        for place, alpha in enumerate(alphas)
    )


def _identical(one: Alpha, other: Alpha) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        return one == other
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _equal(one: StateDict, other: StateDict) -> bool:
    """Whether two models are the same, but for rounding and integer tensors."""
    return all(_close(one[name], tensor) for name, tensor in other.items() if tensor.is_floating_point())


def _close(one: Tensor, other: Tensor) -> bool:
    return bool(((one - other).abs() <= _TOLERANCE[other.dtype]).all())


def _name(method: MergeMethod) -> str:
    return getattr(method, "__name__", repr(method))
