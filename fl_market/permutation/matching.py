r"""Weight matching (Ainsworth, Hayase and Srinivasa, *Git Re-Basin*, section 3.2), the paper's reference [16].

Find the permutation of ``other`` that maximises the inner product :math:`\langle\theta, \pi(\theta')\rangle` of all
permutable parameters (biases and those of norms count; running statistics are none), by coordinate descent: with all
groups but one fixed, the best order of that one is a linear assignment problem. The activations of the broker's
inputs may decide instead (``activations.py``).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from fl_market.errors import MarketError
from fl_market.parameters import StateDict, state_of
from fl_market.permutation.activations import match_activations
from fl_market.permutation.spec import (
    AxisUse,
    Permutation,
    PermutationSpec,
    apply_permutation,
    identity_permutation,
)
from fl_market.seeds import numpy_generator

METHODS = ("weights", "activations")
_RELATIVE_TOLERANCE = 5e-5
"""Smaller gains of a group are not worth the solving of its neighbours."""
_COPY = 0.5
_PRICED_FROM = 256
"""Assignment problems of this size or larger are eased by the prices of the last one."""


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
        What may be permuted in both.
    reference, other
        Modules or state dicts of the same architecture; modules for ``method="activations"``.
    method
        ``"weights"``: the greatest inner product of the parameters. ``"activations"``: the greatest correlation of
        what the units answer to ``batches``; groups whose units cannot be observed are then matched by weights.
    batches
        Unlabelled inputs, for ``method="activations"``.
    seed
        Decides the order in which the groups are first visited; nothing else is random.
    start
        Where to start: last round's permutation saves sweeps. By default the groups are first matched one after the
        other from the input on or, where ``other`` looks like a permuted copy, by which units look :func:`alike`.

    Returns
    -------
    dict
        Group name -> order of units, for ``apply_permutation(spec, result, other)``. The match in the other
        direction is ``invert`` of it.

    Raises
    ------
    MarketError
        If the method is unknown, or lacks the modules or the inputs that it needs.

    Notes
    -----
    A group is solved again only if a group with which it shares a tensor has changed since. Each assignment can
    only raise the objective, and there are finitely many permutations, so the descent ends.
    """
    if method not in METHODS:
        raise MarketError(f"unknown method {method!r}; accepted are {', '.join(METHODS)}")
    weights = spec.of_parameters()
    left, right = _scaled(weights, reference), _scaled(weights, other)
    if method == "activations":
        if not isinstance(reference, nn.Module) or not isinstance(other, nn.Module) or batches is None:
            raise MarketError("matching by activations needs two modules and batches of inputs")
        found, observed = match_activations(spec, reference, other, batches)
        return _descend(weights, left, right, seed, found, set(spec.groups) - observed)
    if start is None and _looks_like_a_copy(weights, left, right):
        start = alike(spec, left, right)
    return _descend(weights, left, right, seed, start, set(spec.groups))


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
    """Return the inner product of all permutable parameters of ``reference`` and of the permuted ``other``."""
    return _inner_product(spec.of_parameters(), state_of(reference), apply_permutation(spec, permutation, other))


def alike(
    spec: PermutationSpec, reference: nn.Module | StateDict, other: nn.Module | StateDict
) -> dict[str, NDArray[np.int64]]:
    """Return the permutation that pairs units whose weights are the same numbers in any order.

    What a unit owns of a tensor is sorted first, so that the order of all other units does not matter: a network and
    its permuted copy are matched at once, where coordinate descent alone often ends in a local optimum.
    """
    spec = spec.of_parameters()
    left, right = _scaled(spec, reference), _scaled(spec, other)
    permutation = {}
    for name, group in spec.groups.items():
        similarity = torch.zeros(group.size, group.size)
        for use in group.uses:
            similarity += _units(left, use).sort(1).values @ _units(right, use).sort(1).values.T
        permutation[name] = _Assignment().solve(similarity)
    return permutation


def _looks_like_a_copy(spec: PermutationSpec, reference: StateDict, other: StateDict) -> bool:
    """Return whether the units of ``other`` are nearer to those of ``reference`` than these are to each other."""
    if not spec.groups:
        return False
    group = max(spec.groups.values(), key=lambda group: group.size)
    left, right = (torch.cat([_profile(_units(state, use)) for use in group.uses], 1) for state in (reference, other))
    apart = torch.cdist(left, left).fill_diagonal_(torch.inf).amin(1).median()
    return bool(torch.cdist(left, right).amin(1).median() < _COPY * apart)


def _profile(units: Tensor) -> Tensor:
    """Return five numbers for each unit that do not depend on the order of its weights."""
    return torch.stack([units.mean(1), units.abs().mean(1), units.norm(dim=1), units.amax(1), units.amin(1)], 1)


def _descend(
    spec: PermutationSpec,
    reference: StateDict,
    other: StateDict,
    seed: int,
    start: Permutation | None,
    free: set[str],
) -> dict[str, NDArray[np.int64]]:
    """Improve a permutation group by group until no free group can be."""
    assignments = {name: _Assignment() for name in free}
    if start is None:
        start = _from_the_input_on(spec, reference, other, assignments)
    permutation = {name: order.copy() for name, order in start.items()}
    similarities = _Similarities(spec, reference, apply_permutation(spec, permutation, other))
    generator = numpy_generator(seed, "match")
    # how much the objective rose around a group since it was solved: where it rose most, most can be found anew
    unrest = {name: float("inf") for name in generator.permutation(sorted(free)).tolist()}
    with ThreadPoolExecutor() as threads:
        while any(unrest.values()):
            names = similarities.independent(sorted(filter(unrest.get, unrest), key=unrest.__getitem__, reverse=True))
            unrest |= dict.fromkeys(names, 0.0)
            orders = list(threads.map(lambda name: assignments[name].solve(similarities[name]), names))
            for name, order in zip(names, orders, strict=True):
                gain, present = similarities.gain(name, order)
                if gain > _RELATIVE_TOLERANCE * max(abs(present), similarities.smallest):
                    _record(spec, permutation, name, order)
                    for neighbour in similarities.reorder(name, order) & free:
                        unrest[neighbour] += gain
    return permutation


def _from_the_input_on(
    spec: PermutationSpec, reference: StateDict, other: StateDict, assignments: Mapping[str, "_Assignment"]
) -> dict[str, NDArray[np.int64]]:
    """Return a first permutation: every group is matched once, in the order in which the model uses them.

    A tensor counts once all other groups on it have been matched. The insides of heads stay as they are.
    """
    permutation, aligned = identity_permutation(spec), dict(other)
    unmatched = {name for name in assignments if spec.groups[name].inside is None}
    groups_on = defaultdict(set)
    for name, group in spec.groups.items():
        for use in group.uses:
            groups_on[use.tensor].add(name)
    for name in [name for name in spec.groups if name in unmatched]:
        group = spec.groups[name]
        uses = [use for use in group.uses if groups_on[use.tensor] & unmatched == {name}] or group.uses
        permutation[name] = assignments[name].solve(_inner_products(group.size, uses, reference, aligned))
        for use in group.uses:
            aligned[use.tensor] = use.reordered(aligned[use.tensor], permutation[name])
        unmatched.remove(name)
    return permutation


def _inner_products(size: int, uses: Iterable[AxisUse], reference: StateDict, other: StateDict) -> Tensor:
    """Return those of every unit of ``reference`` with every unit of ``other``: shape (size, size)."""
    total = torch.zeros(size, size)
    for use in uses:
        total.addmm_(_units(reference, use), _units(other, use).T)
    return total


class _Similarities:
    """For each group the inner products of all units of the reference and all of the aligned model.

    They are kept up to date: whatever one group's reordering moves changes the similarities of the groups with which
    it shares a tensor by the product of the moved columns alone.
    """

    def __init__(self, spec: PermutationSpec, reference: StateDict, aligned: StateDict) -> None:
        self._groups, self._reference = spec.groups, reference
        self.aligned = dict(aligned)
        self._users = defaultdict(list)
        for name, group in spec.groups.items():
            for use in group.uses:
                self._users[use.tensor].append((name, use))
        self._matrices = {name: self._compute(name) for name in spec.groups}
        self.smallest = max((float(matrix.abs().max()) for matrix in self._matrices.values()), default=1.0)

    def __getitem__(self, name: str) -> Tensor:
        return self._matrices[name]

    def independent(self, names: Sequence[str]) -> list[str]:
        """Return those of the groups that share no tensor with one returned before them."""
        taken: list[str] = []
        touched: set[str] = set()
        for name in names:
            tensors = {use.tensor for use in self._groups[name].uses}
            if not tensors & touched:
                taken.append(name)
                touched |= tensors
        return taken

    def _compute(self, name: str) -> Tensor:
        group = self._groups[name]
        return _inner_products(group.size, group.uses, self._reference, self.aligned)

    def gain(self, name: str, order: NDArray[np.int64]) -> tuple[float, float]:
        """Return by how much the order would raise the sum of a group's similarities, and that sum."""
        similarity = self._matrices[name]
        present = float(similarity.trace())
        return float(similarity[np.arange(len(order)), order].sum()) - present, present

    def reorder(self, name: str, order: NDArray[np.int64]) -> set[str]:
        """Reorder one group's units, and return the names of the groups whose similarities that changed."""
        moved = np.flatnonzero(order != np.arange(len(order)))
        changed = set()
        for use in self._groups[name].uses:
            before = self.aligned[use.tensor]
            after = use.reordered(before, order)
            for neighbour, view in self._users[use.tensor]:
                if neighbour != name:
                    changed.add(neighbour)
                    self._update(neighbour, view, use, moved, before, after)
            self.aligned[use.tensor] = after
        self._matrices[name] = self._compute(name) if self._acts_on_itself(name) else self._matrices[name][:, order]
        return changed

    def _update(
        self, name: str, view: AxisUse, use: AxisUse, moved: NDArray[np.int64], before: Tensor, after: Tensor
    ) -> None:
        reference = self._reference[view.tensor]
        if view.axis != use.axis and view.rows is None and use.rows is None:
            columns = torch.from_numpy(use.positions[moved].reshape(-1))
            reference, before, after = (tensor.index_select(use.axis, columns) for tensor in (reference, before, after))
        self._matrices[name].addmm_(_owned(reference, view), _owned(after - before, view).T)

    def _acts_on_itself(self, name: str) -> bool:
        """Return whether some tensor has the group on two axes, so that reordering one changes what the other sees."""
        tensors = [use.tensor for use in self._groups[name].uses]
        return len(set(tensors)) < len(tensors)


class _Assignment:
    """Linear assignment problems, each much like the one before it.

    A price on each row and column changes no optimum. With those of the last problem's solution most units find their
    partner at once (scipy's solver cannot be given prices, but they can be taken off its matrix).
    """

    def __init__(self) -> None:
        self._rows: NDArray[np.float32] | None = None
        self._columns: NDArray[np.float32] | None = None

    def solve(self, similarity: Tensor) -> NDArray[np.int64]:
        """Return for each row its column, where the sum of similarities is greatest.

        The columns may have been reordered by the last solution, but not otherwise.
        """
        cost = -similarity.numpy()
        if len(cost) < _PRICED_FROM:
            return linear_sum_assignment(cost)[1].astype(np.int64)
        if self._rows is None or self._columns is None:
            self._rows, self._columns = cost.mean(1), cost.mean(0)
        order = linear_sum_assignment(cost - self._rows[:, None] - self._columns)[1].astype(np.int64)
        solved = cost[:, order]
        diagonal = solved.diagonal()
        slack = solved - diagonal
        for _ in range(4):  # of Bellman and Ford's steps: few suffice, as the prices need not be exact
            self._rows = np.minimum(self._rows, (slack + self._rows).min(1))
        self._columns = diagonal - self._rows
        return order


def _inner_product(spec: PermutationSpec, left: StateDict, right: StateDict) -> float:
    names = sorted({use.tensor for group in spec.groups.values() for use in group.uses})
    left, right = ({name: state[name] for name in names} for state in (left, right))
    left, right = _doubles(left), _doubles(right)
    return float(sum((left[name] * right[name]).sum() for name in names))


def _record(
    spec: PermutationSpec, permutation: dict[str, NDArray[np.int64]], name: str, order: NDArray[np.int64]
) -> None:
    """Add one group's reordering to a permutation; inside a head it belongs to the head that stands there now."""
    inside = spec.groups[name].inside
    target = name if inside is None else spec.twin(name, int(permutation[inside.heads][inside.head]))
    permutation[target] = permutation[target][order]


def _scaled(spec: PermutationSpec, model: nn.Module | StateDict) -> dict[str, Tensor]:
    """Return the permutable tensors in single precision, divided by their largest value: no product overflows."""
    state = state_of(model)
    names = {use.tensor for group in spec.groups.values() for use in group.uses}
    floats = {name: tensor.detach().cpu().float() for name, tensor in state.items() if name in names}
    largest = max((float(tensor.abs().max()) for tensor in floats.values() if tensor.numel()), default=0.0)
    return {name: tensor / largest for name, tensor in floats.items()} if largest > 0 else floats


def _doubles(state: StateDict) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().double() for name, tensor in state.items()}


def _units(state: StateDict, use: AxisUse) -> Tensor:
    """Return what each unit owns of one tensor: shape (units, everything else)."""
    return _owned(state[use.tensor], use)


def _owned(tensor: Tensor, use: AxisUse) -> Tensor:
    if use.rows is not None:
        tensor = tensor[slice(*use.rows)]
    if use.positions.size != tensor.shape[use.axis] or not np.array_equal(
        use.positions.reshape(-1), np.arange(use.positions.size)
    ):
        tensor = tensor.index_select(use.axis, torch.from_numpy(use.positions.reshape(-1)))
    return tensor.movedim(use.axis, 0).reshape(len(use.positions), -1)
