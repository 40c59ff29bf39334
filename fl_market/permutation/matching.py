r"""Weight matching (Ainsworth, Hayase and Srinivasa, *Git Re-Basin*, section 3.2), the paper's reference [16].

Find the permutation of ``other`` that maximises the inner product :math:`\langle\theta, \pi(\theta')\rangle` of all
permutable tensors (biases and norm parameters count), by coordinate descent: with all groups but one fixed, the
best order of that one is a linear assignment problem.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from fl_market.errors import MarketError
from fl_market.parameters import StateDict
from fl_market.permutation.spec import (
    AxisUse,
    Permutation,
    PermutationSpec,
    apply_permutation,
    identity_permutation,
    random_permutation,
    state_of,
)
from fl_market.seeds import derive_seed, numpy_generator

_RELATIVE_TOLERANCE = 1e-12


def match(
    spec: PermutationSpec,
    reference: nn.Module | StateDict,
    other: nn.Module | StateDict,
    *,
    seed: int = 0,
    start: Permutation | None = None,
    restarts: int = 0,
) -> dict[str, NDArray[np.int64]]:
    """Return the permutation of ``other`` that brings it closest to ``reference``.

    Parameters
    ----------
    spec
        What may be permuted in both.
    reference, other
        Modules or state dicts of the same architecture.
    seed
        Decides the order in which the groups are visited and the random starts; nothing else is random.
    start
        Where to start: last round's permutation saves sweeps. By default the search starts from the identity and from
        the units that look alike whatever the order of all others (:func:`alike`), and keeps the better result.
    restarts
        Random starts beyond these.

    Returns
    -------
    dict
        Group name -> order of units, for ``apply_permutation(spec, result, other)``. The match in the other
        direction is ``invert`` of it.

    Notes
    -----
    A group is solved again only if a group with which it shares a tensor has changed since. Each assignment can
    only raise the objective, and there are finitely many permutations, so the descent ends.
    """
    reference_state = {name: _array(tensor) for name, tensor in state_of(reference).items()}
    starts = [identity_permutation(spec), alike(spec, reference, other)] if start is None else [start]
    starts += [random_permutation(spec, derive_seed(seed, "restart", index)) for index in range(restarts)]
    found = [_descend(spec, reference_state, other, seed, begin) for begin in starts]
    return max(found, key=lambda result: result[1])[0]


def match_many(
    spec: PermutationSpec, models: Sequence[nn.Module | StateDict], *, seed: int = 0, sweeps: int = 2
) -> list[dict[str, NDArray[np.int64]]]:
    """Return for each model the permutation that brings it into one order common to all.

    Parameters
    ----------
    spec
        What may be permuted in all of them.
    models
        One or more modules or state dicts of one architecture; the first one is where the common order begins.
    seed
        As in :func:`match`.
    sweeps
        How often every model is matched again, to the mean of all others.

    Returns
    -------
    list of dict
        ``apply_permutation(spec, result[i], models[i])`` are comparable unit by unit. Going from model i to j to k is
        the same as going from i to k at once, and the cost is linear in the number of models.

    Raises
    ------
    MarketError
        If there is no model.
    """
    if not models:
        raise MarketError("match_many needs at least one model")
    found = [identity_permutation(spec)] + [match(spec, models[0], model, seed=seed) for model in models[1:]]
    aligned = [_floats(apply_permutation(spec, order, model)) for order, model in zip(found, models, strict=True)]
    total = {name: sum(state[name] for state in aligned) for name in aligned[0]}
    for _ in range(sweeps if len(models) > 2 else 0):
        for index, model in enumerate(models):
            others = {name: tensor - aligned[index][name] for name, tensor in total.items()}
            found[index] = match(spec, others, model, seed=seed, start=found[index])
            aligned[index] = _floats(apply_permutation(spec, found[index], model))
            total = {name: tensor + aligned[index][name] for name, tensor in others.items()}
    return found


def _floats(state: StateDict) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().double() for name, tensor in state.items()}


def alike(
    spec: PermutationSpec, reference: nn.Module | StateDict, other: nn.Module | StateDict
) -> dict[str, NDArray[np.int64]]:
    """Return the permutation that pairs units whose weights are the same numbers in any order.

    What a unit owns of a tensor is sorted first, so that the order of all other units does not matter: a network and
    its permuted copy are matched at once, where coordinate descent alone often ends in a local optimum.
    """
    left = {name: _array(tensor) for name, tensor in state_of(reference).items()}
    right = {name: _array(tensor) for name, tensor in state_of(other).items()}
    permutation = {}
    for name, group in spec.groups.items():
        similarity = np.zeros((group.size, group.size))
        for use in group.uses:
            similarity += np.sort(_units(left, use), axis=1) @ np.sort(_units(right, use), axis=1).T
        permutation[name] = linear_sum_assignment(similarity, maximize=True)[1].astype(np.int64)
    return permutation


def _descend(
    spec: PermutationSpec,
    reference: dict[str, NDArray[np.float64]],
    other: nn.Module | StateDict,
    seed: int,
    start: Permutation,
) -> tuple[dict[str, NDArray[np.int64]], float]:
    """Improve a permutation group by group until none can be improved, and return it with its objective."""
    permutation = {name: order.copy() for name, order in start.items()}
    aligned = {name: _array(tensor) for name, tensor in apply_permutation(spec, permutation, other).items()}
    neighbours = _neighbours(spec)
    generator = numpy_generator(seed, "match")
    waiting = set(spec.groups)
    while waiting:
        for name in generator.permutation(sorted(spec.groups)):
            if name not in waiting:
                continue
            waiting.discard(name)
            order = _best_order(spec.groups[name].uses, reference, aligned)
            if order is None:
                continue
            _record(spec, permutation, name, order)
            for use in spec.groups[name].uses:
                _reorder(aligned, use, order)
            waiting |= neighbours[name]
    return permutation, _inner_product(spec, reference, aligned)


def objective(
    spec: PermutationSpec, reference: nn.Module | StateDict, other: nn.Module | StateDict, permutation: Permutation
) -> float:
    """Return the inner product of all permutable tensors of ``reference`` and of the permuted ``other``."""
    left = {name: _array(tensor) for name, tensor in state_of(reference).items()}
    right = {name: _array(tensor) for name, tensor in apply_permutation(spec, permutation, other).items()}
    return _inner_product(spec, left, right)


def _inner_product(
    spec: PermutationSpec, left: dict[str, NDArray[np.float64]], right: dict[str, NDArray[np.float64]]
) -> float:
    names = sorted({use.tensor for group in spec.groups.values() for use in group.uses})
    return float(sum(np.vdot(left[name], right[name]) for name in names))


def _record(
    spec: PermutationSpec, permutation: dict[str, NDArray[np.int64]], name: str, order: NDArray[np.int64]
) -> None:
    """Add one group's reordering to a permutation; inside a head it belongs to the head that stands there now."""
    inside = spec.groups[name].inside
    target = name if inside is None else spec.twin(name, int(permutation[inside.heads][inside.head]))
    permutation[target] = permutation[target][order]


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()


def _neighbours(spec: PermutationSpec) -> dict[str, set[str]]:
    """Return for each group the other groups whose order decides its assignment problem."""
    users = defaultdict(set)
    for name, group in spec.groups.items():
        for use in group.uses:
            users[use.tensor].add(name)
    return {
        name: {other for use in group.uses for other in users[use.tensor]} - {name}
        for name, group in spec.groups.items()
    }


def _best_order(
    uses: tuple[AxisUse, ...], reference: dict[str, NDArray[np.float64]], aligned: dict[str, NDArray[np.float64]]
) -> NDArray[np.int64] | None:
    """Return the order of one group's units that is best with all other groups fixed; None if the present one is."""
    size = len(uses[0].positions)
    similarity = np.zeros((size, size))
    for use in uses:
        similarity += _units(reference, use) @ _units(aligned, use).T
    _, order = linear_sum_assignment(similarity, maximize=True)
    present = similarity.trace()
    gain = similarity[np.arange(size), order].sum() - present
    return order.astype(np.int64) if gain > _RELATIVE_TOLERANCE * max(1.0, abs(present)) else None


def _units(state: dict[str, NDArray[np.float64]], use: AxisUse) -> NDArray[np.float64]:
    """Return what each unit owns of one tensor: an array (units, everything else)."""
    tensor = state[use.tensor] if use.rows is None else state[use.tensor][slice(*use.rows)]
    owned = np.take(tensor, use.positions.reshape(-1), axis=use.axis)
    return np.moveaxis(owned, use.axis, 0).reshape(len(use.positions), -1)


def _reorder(state: dict[str, NDArray[np.float64]], use: AxisUse, order: NDArray[np.int64]) -> None:
    tensor = state[use.tensor]
    index = use.index(order, tensor.shape[use.axis])
    if use.rows is None:
        state[use.tensor] = np.take(tensor, index, axis=use.axis)
    else:
        tensor = tensor.copy()
        tensor[slice(*use.rows)] = np.take(tensor[slice(*use.rows)], index, axis=use.axis)
        state[use.tensor] = tensor
