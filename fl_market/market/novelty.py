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

from dataclasses import dataclass
from functools import cached_property

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
        assert self.objective.classifier is not None
        inputs, targets = (part[:INPUTS] for part in self.objective.fit)
        outputs = self.objective.classifier.outputs(self.state, (inputs, targets))
        return residuals(outputs.double().cpu(), targets.cpu())

    @cached_property
    def matrices(self) -> dict[str, Tensor]:
        """Weights with two axes or more, by name, in the form that is free of units' scales."""
        return {
            name: scaled(tensor.double().cpu())
            for name, tensor in self.state.items()
            if tensor.dim() > 1 and tensor.is_floating_point()
        }

    @cached_property
    def entries(self) -> dict[str, Tensor]:
        """The entries of each matrix, sorted."""
        return {name: matrix.flatten().sort().values for name, matrix in self.matrices.items()}

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
        if not novelty:
            return False
        shapes = {name: matrix.shape for name, matrix in other.matrices.items()}
        shared = [name for name, matrix in self.matrices.items() if shapes.get(name) == matrix.shape]
        if not shared:
            return False
        sorted_one, sorted_known = ({name: some.entries[name] for name in shared} for some in (self, other))
        if _distance(sorted_one, sorted_known) > novelty:  # never above that of the entries in their places
            return False
        one, known = ({name: some.matrices[name] for name in shared} for some in (self, other))
        part = spec.restricted_to(shared)
        return _distance(apply_permutation(part, match(part, known, one), one), known) <= novelty


def scaled(weights: Tensor) -> Tensor:
    """Return a weight tensor scaled by rows and columns so that these have a mean square of 1.

    Parameters
    ----------
    weights
        Shape (outputs, inputs, …); entries of one output and input are scaled alike.

    Examples
    --------
    >>> weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    >>> torch.allclose(scaled(weights), scaled(weights * torch.tensor([[5.0], [0.1]])))
    True
    """
    squares = weights.square().flatten(2).sum(2) if weights.dim() > 2 else weights.square()
    squares = squares + TINY * squares.mean()
    if not squares.any():
        return weights
    rows, columns = torch.ones_like(squares[:, 0]), torch.ones_like(squares[0])
    for _ in range(SCALINGS):
        rows = 1 / (squares @ columns / len(columns))
        columns = 1 / (rows @ squares / len(rows))
    ones = [1] * (weights.dim() - 2)
    return weights * rows.sqrt().view(-1, 1, *ones) * columns.sqrt().view(1, -1, *ones)


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
    apart = sum(float((one[name] - tensor).square().sum()) for name, tensor in known.items())
    norm = sum(float(tensor.square().sum()) for tensor in known.values())
    return (apart / norm) ** 0.5 if norm else float(apart > 0)
