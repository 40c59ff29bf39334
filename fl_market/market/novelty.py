"""Protection against resale (beyond the paper): agents sell what they trained, and no copies.

A purchase reveals its seller's parameters: from the merged model, its own and α, a buyer solves for
them. Two tests find copies of what the broker delivered or sold, and of what another agent offers.

*Parameters.* A copy may have its units in another order, and its weights rescaled by unit without
an effect on the function. Each weight matrix is therefore brought to the one form in which all its
rows, and all its columns, have the same norm (matrix scaling, Sinkhorn and Knopp, 1967). The forms
are compared after an alignment.

*Outputs.* Two networks that were trained apart agree on the classes, and hardly in what is beside
them: what is left of the outputs without each class's mean has a correlation of -0.1 to 0.4.
After one more epoch of training it is 0.72 to 0.9985. A copy with noise of up to half a percent of
the weights, with a temperature, or under any symmetry of its function stays above 0.9997.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fl_market.gains import Objective
from fl_market.parameters import StateDict
from fl_market.permutation import PermutationSpec, apply_permutation, match

INPUTS = 1000
"""Largest number of the broker's inputs on which outputs are compared."""
SCALINGS = 20
"""Rounds of matrix scaling; dense matrices need fewer than ten."""
TINY = 1e-12
"""Share of a matrix's mean square that is added to each entry: a unit may be dead."""
BLOCKS = 64
"""Numbers that stand for the sorted entries of a matrix."""
AT_ONCE = 512
"""Known listings with which all offers are compared at a time."""
EXACT = "donot_use_mm_for_euclid_dist"
"""Mode of torch.cdist: products would lose the digits of small distances."""
ROUNDING = 1e-6
"""Share of a norm by which rounding may lift the lower bound of a distance."""
ENTRIES = 2**22
"""Entries of a matrix that are in double precision at a time."""


@dataclass(frozen=True)
class Listing:
    """A model, and what it is compared by, computed once.

    Attributes
    ----------
    state
        Its parameters.
    objective
        Architecture and data; the fit split is used.
    """

    state: StateDict
    objective: Objective

    @cached_property
    def residuals(self) -> Tensor:
        """Outputs on the broker's inputs, centred by sample and by class, as one vector."""
        classifier, (inputs, targets) = self.objective.classifier, (part[:INPUTS] for part in self.objective.fit)
        assert classifier is not None
        outputs = classifier.outputs(classifier.hardware.place_state(self.state), (inputs, targets))
        return residuals(outputs.double().cpu(), targets.cpu()).float()

    @cached_property
    def sketches(self) -> dict[str, Tensor]:
        """Matrix -> its :func:`sketch`, of the form that is free of units' scales."""
        return {name: sketch(scaled(tensor)) for name, tensor in self._weights()}

    @property
    def matrices(self) -> dict[str, Tensor]:
        """Weights with two axes or more, by name, in the form that is free of units' scales.

        They are made anew each time: they take as much memory as the model.
        """
        return {name: scaled(tensor) for name, tensor in self._weights()}

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.state.items():
            if tensor.dim() > 1 and tensor.is_floating_point():
                yield name, tensor.cpu()

    @cached_property
    def shapes(self) -> tuple[tuple[str, torch.Size], ...]:
        """Names and shapes of the matrices."""
        return tuple((name, self.state[name].shape) for name in self.sketches)

    def copies(self, other: "Listing", spec: PermutationSpec, novelty: float, resemblance: float) -> bool:
        """Return whether this is a copy of another listing, by its parameters or its outputs.

        Parameters
        ----------
        other
            The other listing; its label space may differ, and then the shared layers are compared.
        spec
            The permutable units of the layers that both have.
        novelty
            Least distance of the parameters, as a share of the other's norm; 0 for no limit.
        resemblance
            Highest correlation of the outputs; 1 for no limit.
        """
        comparable = resemblance < 1 and self.residuals.shape == other.residuals.shape
        if comparable and float(self.residuals @ other.residuals) > resemblance:
            return True
        shared = [name for name, _ in sorted(set(self.shapes) & set(other.shapes))]
        if not novelty or not shared:
            return False
        one, known = (
            {name: matrix for name, matrix in some.matrices.items() if name in shared} for some in (self, other)
        )
        part = spec.restricted_to(shared)
        return _distance(apply_permutation(part, match(part, known, one), one), known) <= novelty


def possible_copies(
    offers: Sequence[Listing], known: Sequence[Listing], novelty: float, resemblance: float
) -> list[list[int]]:
    """Return for each offer the places of the known listings of which it may be a copy.

    All pairs are compared at once by what costs little. What is missing in the result is no copy;
    :meth:`Listing.copies` decides on the rest. Parameters of other shapes are left to it.

    Parameters
    ----------
    offers, known
        Listings.
    novelty, resemblance
        As for :meth:`Listing.copies`.
    """
    found: list[list[int]] = [[] for _ in offers]
    if not offers:
        return found
    for begin in range(0, len(known), AT_ONCE):
        some = known[begin : begin + AT_ONCE]
        near = torch.zeros(len(offers), len(some), dtype=torch.bool)
        if resemblance < 1:
            near |= _by_kind(offers, some, _outputs, lambda one, other: one @ other.T > resemblance, otherwise=False)
        if novelty:
            near |= _by_kind(offers, some, _entries, lambda one, other: _apart(one, other) <= novelty, otherwise=True)
        for place, row in enumerate(near):
            found[place] += [begin + int(column) for column in row.nonzero()]
    return found


Kind = tuple[Hashable, Tensor]


def _outputs(listing: Listing) -> Kind:
    return listing.residuals.shape, listing.residuals


def _entries(listing: Listing) -> Kind:
    blocks = list(listing.sketches.values())
    return listing.shapes, torch.cat(blocks) if blocks else torch.zeros(0)


def _by_kind(
    offers: Sequence[Listing],
    known: Sequence[Listing],
    kind_of: Callable[[Listing], Kind],
    near: Callable[[Tensor, Tensor], Tensor],
    *,
    otherwise: bool,
) -> Tensor:
    """Compare listings whose vectors are of one kind; return a table of (offers, known)."""
    table = torch.full((len(offers), len(known)), otherwise)
    rows, columns = ([kind_of(listing) for listing in some] for some in (offers, known))
    for kind in {kind for kind, _ in rows}:
        places = [place for place, (own, _) in enumerate(rows) if own == kind]
        same = [place for place, (own, _) in enumerate(columns) if own == kind]
        if same:
            one, other = torch.stack([rows[place][1] for place in places]), torch.stack([columns[p][1] for p in same])
            table[torch.tensor(places)[:, None], torch.tensor(same)] = near(one, other)
    return table


def sketch(matrix: Tensor) -> Tensor:
    """Return a few numbers for the sorted entries of a matrix.

    The distance of two sketches is at most that of the sorted entries, which is at most that of the
    entries in any order of rows and columns.

    Returns
    -------
    Tensor
        Shape (65,): sums of 64 blocks, each over the root of its size, and the matrix's norm.

    Examples
    --------
    >>> one, other = torch.randn(9, 9), torch.randn(9, 9)
    >>> bool((sketch(one) - sketch(other))[:-1].norm() <= (one - other).norm())
    True
    """
    parts = np.array_split(np.sort(matrix.numpy(), axis=None), BLOCKS)
    sums = [part.sum(dtype=np.float64) / max(1, len(part)) ** 0.5 for part in parts]
    squares = [np.square(part, dtype=np.float64).sum() for part in parts]
    return torch.tensor([*sums, sum(squares) ** 0.5], dtype=torch.float64)


def _apart(one: Tensor, known: Tensor) -> Tensor:
    """Return lower bounds of the distances of models, as shares of the known ones' norms."""
    one, known = (sketches.double().view(len(sketches), -1, BLOCKS + 1) for sketches in (one, known))
    norms = known[:, :, -1].square().sum(1).sqrt()
    apart = torch.cdist(one[:, :, :-1].flatten(1), known[:, :, :-1].flatten(1), compute_mode=EXACT)
    return apart / norms.clamp(min=TINY) - ROUNDING


def scaled(weights: Tensor) -> Tensor:
    """Return a weight tensor scaled by rows and columns so that these have a mean square of 1.

    Parameters
    ----------
    weights
        Shape (outputs, inputs, …); entries of one output and input are scaled alike.

    Returns
    -------
    Tensor
        In single precision; the scales are computed in double precision, in which absurd weights
        do not overflow.

    Examples
    --------
    >>> weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> torch.allclose(scaled(weights), scaled(weights * torch.tensor([[5.0], [0.1]])))
    True
    """
    parts = torch.split(weights, max(1, ENTRIES * len(weights) // max(1, weights.numel())))
    least = TINY * sum(float(_squares(part).sum()) for part in parts) / max(1, len(weights) * weights.shape[1])
    if not least:
        return weights.float()
    squares = _squares(parts[0]) + least
    rows, columns = torch.ones(len(weights), dtype=torch.float64), torch.ones(weights.shape[1], dtype=torch.float64)
    for _ in range(SCALINGS):
        totals = torch.zeros_like(columns)
        for part, scales in zip(parts, torch.split(rows, len(parts[0])), strict=True):
            if len(parts) > 1:  # together they would be twice as large as the weights
                squares = _squares(part) + least
            scales.copy_(1 / (squares @ columns / len(columns)))
            totals += scales @ squares
        columns = 1 / (totals / len(rows))
    result, ones = torch.empty(weights.shape), [1] * (weights.dim() - 2)
    for part, scales, place in zip(
        parts, torch.split(rows, len(parts[0])), torch.split(result, len(parts[0])), strict=True
    ):
        place.copy_(part.double() * scales.sqrt().view(-1, 1, *ones) * columns.sqrt().view(1, -1, *ones))
    return result


def _squares(weights: Tensor) -> Tensor:
    squares = weights.double().square()
    return squares.flatten(2).sum(2) if weights.dim() > 2 else squares


def residuals(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return what is left of outputs without each sample's and each class's mean.

    Parameters
    ----------
    outputs
        Shape (samples, classes).
    targets
        Classes, shape (samples,).

    Returns
    -------
    Tensor
        One vector of norm 1, or of zeros if nothing is left.
    """
    left = outputs - outputs.mean(1, keepdim=True)
    for target in torch.unique(targets):
        chosen = targets == target
        left[chosen] -= left[chosen].mean(0)
    return torch.nn.functional.normalize(left.flatten(), dim=0)


def _distance(one: StateDict, known: StateDict) -> float:
    apart = sum(float((one[name] - tensor).square().sum(dtype=torch.float64)) for name, tensor in known.items())
    norm = sum(float(tensor.square().sum(dtype=torch.float64)) for tensor in known.values())
    return (apart / norm) ** 0.5 if norm else float(apart > 0)
