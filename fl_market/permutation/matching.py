r"""Weight matching (Ainsworth, Hayase, Srinivasa, *Git Re-Basin*, section 3.2; the paper's [16]).

Find the permutation of ``other`` that maximises the inner product :math:`\langle\theta,
\pi(\theta')\rangle` of all permutable parameters. Biases count, and so do the parameters of norms;
running statistics are no parameters. The method is coordinate descent: with all groups but one
fixed, the best order of that one is a linear assignment problem. The activations of the broker's
inputs may decide instead (``activations.py``).
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_market.errors import MarketError
from fl_market.parameters import StateDict, state_of
from fl_market.permutation.activations import match_activations
from fl_market.permutation.assignment import Assignment
from fl_market.permutation.similarity import Similarities
from fl_market.permutation.spec import Permutation, PermutationSpec, apply_permutation, identity_permutation
from fl_market.permutation.starts import alike, from_the_input_on, looks_like_a_copy
from fl_market.seeds import numpy_generator

METHODS = ("weights", "activations")
_RELATIVE_TOLERANCE = 5e-5
_LARGE = 2.0**20
"""Values up to this size, and down to its inverse, are multiplied as they are."""
"""Smaller gains of a group are not worth the solving of its neighbours."""


def match(
    spec: PermutationSpec,
    reference: nn.Module | StateDict,
    other: nn.Module | StateDict,
    *,
    method: str = "weights",
    batches: Iterable[Tensor] | None = None,
    seed: int = 0,
    start: Permutation | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Return the permutation of ``other`` that brings it closest to ``reference``.

    Parameters
    ----------
    spec
        The permutation spec of both.
    reference, other
        Modules or state dicts of the same architecture; modules for ``method="activations"``.
    method
        ``"weights"``: the greatest inner product of the parameters. ``"activations"``: the greatest
        correlation of the units' activations on ``batches``. Groups that cannot be observed are
        then matched by weights.
    batches
        Unlabelled inputs, for ``method="activations"``.
    seed
        Decides the order in which the groups are first visited; nothing else is random.
    start
        Where matching by weights starts; last round's permutation saves sweeps. By default the
        groups are first matched one after the other from the input on or, where ``other`` looks
        like a permuted copy, by units that look alike.

    Returns
    -------
    dict
        Group name -> order of units, for ``apply_permutation(spec, result, other)``. The match in
        the other direction is ``invert`` of it.

    Raises
    ------
    MarketError
        If the method is unknown, or lacks the modules or the inputs that it needs.
    """
    if method not in METHODS:
        raise MarketError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if method == "weights":
        return match_weights(spec, state_of(reference), state_of(other), seed=seed, start=start)
    if not isinstance(reference, nn.Module) or not isinstance(other, nn.Module) or batches is None:
        raise MarketError("matching by activations needs two modules and batches of inputs")
    return match_observed(spec, reference, reference.state_dict(), other.state_dict(), batches, seed=seed)


def match_weights(
    spec: PermutationSpec, reference: StateDict, other: StateDict, *, seed: int, start: Permutation | None
) -> dict[str, NDArray[np.int64]]:
    """Return the permutation with the greatest inner product of parameters; see :func:`match`."""
    weights = spec.of_parameters()
    left, right = _scaled(weights, reference), _scaled(weights, other)
    if start is None and looks_like_a_copy(weights, left, right):
        start = alike(weights, left, right)
    return _descend(weights, left, right, seed, start, set(spec.groups))


def match_observed(
    spec: PermutationSpec,
    model: nn.Module,
    reference: StateDict,
    other: StateDict,
    batches: Iterable[Tensor],
    *,
    seed: int,
) -> dict[str, NDArray[np.int64]]:
    """Return the permutation with the greatest correlation of activations; see :func:`match`.

    Groups that cannot be observed are matched by weights, with all others fixed.
    """
    weights = spec.of_parameters()
    found, observed = match_activations(spec, model, reference, other, batches)
    left, right = _scaled(weights, reference), _scaled(weights, other)
    return _descend(weights, left, right, seed, found, set(spec.groups) - observed)


def match_many(
    spec: PermutationSpec, models: Sequence[nn.Module | StateDict], *, seed: int = 0, sweeps: int = 2
) -> list[dict[str, NDArray[np.int64]]]:
    """Return for each model the permutation that brings it into one order common to all.

    Parameters
    ----------
    spec
        The permutation spec of all of them.
    models
        One or more modules or state dicts of one architecture. The first one is where the common
        order begins.
    seed
        As in :func:`match`.
    sweeps
        How often each model is matched again, to the mean of all others.

    Returns
    -------
    list of dict
        ``apply_permutation(spec, result[i], models[i])`` are comparable unit by unit. Going from
        model i to j to k is the same as going from i to k at once, and the cost is linear in the
        number of models.

    Raises
    ------
    MarketError
        If there is no model.
    """
    if not models:
        raise MarketError("match_many needs at least one model; got none")
    found = [identity_permutation(spec)] + [match(spec, models[0], model, seed=seed) for model in models[1:]]
    aligned = [_doubles(apply_permutation(spec, order, model)) for order, model in zip(found, models, strict=True)]
    total = {name: sum(state[name] for state in aligned) for name in aligned[0]}
    for _ in range(sweeps if len(models) > 2 else 0):
        for index, model in enumerate(models):
            others = {name: tensor - aligned[index][name] for name, tensor in total.items()}
            found[index] = match(spec, others, model, seed=seed, start=found[index])
            aligned[index] = _doubles(apply_permutation(spec, found[index], model))
            total = {name: tensor + aligned[index][name] for name, tensor in others.items()}
    return found


def objective(
    spec: PermutationSpec, reference: nn.Module | StateDict, other: nn.Module | StateDict, permutation: Permutation
) -> float:
    """Return the inner product of the parameters of ``reference`` and the permuted ``other``."""
    moved = apply_permutation(spec, permutation, other)
    names = sorted({use.tensor for group in spec.of_parameters().groups.values() for use in group.uses})
    left, right = (_doubles({name: state[name] for name in names}) for state in (state_of(reference), moved))
    return float(sum((left[name] * right[name]).sum() for name in names))


def _descend(
    spec: PermutationSpec,
    reference: StateDict,
    other: StateDict,
    seed: int,
    start: Permutation | None,
    free: set[str],
) -> dict[str, NDArray[np.int64]]:
    """Improve a permutation group by group until no free group can be.

    A group is solved again only if a group with which it shares a tensor has changed since. Each
    assignment can only raise the objective, and there are finitely many permutations, so the
    descent ends.
    """
    assignments = {name: Assignment() for name in free}
    if start is None:
        start = from_the_input_on(spec, reference, other, assignments)
    permutation = {name: order.copy() for name, order in start.items()}
    similarities = Similarities(spec, reference, apply_permutation(spec, permutation, other))
    generator = numpy_generator(seed, "match")
    # rise of the objective around a group since it was solved: the greatest is solved first
    pending_gain = {name: float("inf") for name in generator.permutation(sorted(free)).tolist()}
    with ThreadPoolExecutor() as threads:
        while any(pending_gain.values()):
            waiting = sorted(filter(pending_gain.get, pending_gain), key=pending_gain.__getitem__, reverse=True)
            names = similarities.independent(waiting)
            pending_gain |= dict.fromkeys(names, 0.0)
            # at the same time: scipy releases Python's lock
            orders = list(threads.map(lambda name: assignments[name].solve(similarities[name]), names))
            for name, order in zip(names, orders, strict=True):
                gain, present = similarities.gain(name, order)
                if gain > _RELATIVE_TOLERANCE * max(abs(present), similarities.smallest):
                    _record(spec, permutation, name, order)
                    for neighbour in similarities.reorder(name, order) & free:
                        pending_gain[neighbour] += gain
    return permutation


def _record(
    spec: PermutationSpec, permutation: dict[str, NDArray[np.int64]], name: str, order: NDArray[np.int64]
) -> None:
    """Add one group's reordering to a permutation; inside a head, to that of the head there now."""
    inside = spec.groups[name].inside
    target = name if inside is None else spec.twin(name, int(permutation[inside.heads][inside.head]))
    permutation[target] = permutation[target][order]


def _scaled(spec: PermutationSpec, model: StateDict) -> dict[str, Tensor]:
    """Return the permutable tensors in single precision; no product of them overflows."""
    names = {use.tensor for group in spec.groups.values() for use in group.uses}
    floats = {name: tensor.detach().cpu().float() for name, tensor in model.items() if name in names}
    largest = max((float(tensor.abs().max()) for tensor in floats.values() if tensor.numel()), default=0.0)
    usual = largest == 0 or 1 / _LARGE < largest < _LARGE
    return floats if usual else {name: tensor / largest for name, tensor in floats.items()}


def _doubles(state: StateDict) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().double() for name, tensor in state.items()}
