"""Matching by activations: units that react alike to the same inputs.

Source: Li et al. 2016, *Convergent learning*.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from fl_market.observation import Call, observe
from fl_market.parameters import StateDict
from fl_market.permutation.spec import PermutationSpec, identity_permutation

_UNIT_AXIS: dict[type, int] = {nn.Linear: -1, nn.Embedding: -1, nn.Conv1d: 1, nn.Conv2d: 1, nn.Conv3d: 1}
_WEIGHT_AXIS: dict[type, int] = {nn.Embedding: 1}


def match_activations(
    spec: PermutationSpec, model: nn.Module, reference: StateDict, other: StateDict, batches: Iterable[Tensor]
) -> tuple[dict[str, NDArray[np.int64]], set[str]]:
    """Return the permutation with the greatest correlation of activations, and the observed groups.

    Parameters
    ----------
    spec
        The permutation spec of both.
    model
        The architecture; it runs in evaluation mode and is left as it is.
    reference, other
        State dicts, on the device of the batches.
    batches
        Unlabelled inputs, one batch after the other.

    Notes
    -----
    The correlations of a group are summed over all layers that write its units (a residual stream
    has many). Groups of heads, those inside heads, and those that no layer of the usual kinds
    writes are not observed, and keep their order.
    """
    sites = _sites(spec, model)
    layers = {module for found in sites.values() for module, _ in found}
    correlations = _correlations(model, reference, other, layers, batches)
    permutation = identity_permutation(spec)
    observed = set()
    for name, found in sites.items():
        size = spec.groups[name].size
        total = np.zeros((size, size))
        for module, positions in found:
            if module in correlations:
                for slot in positions.T:
                    total += correlations[module][np.ix_(slot, slot)]
                observed.add(name)
        permutation[name] = linear_sum_assignment(total, maximize=True)[1].astype(np.int64)
    return permutation, observed


def _sites(spec: PermutationSpec, model: nn.Module) -> dict[str, list[tuple[str, NDArray[np.int64]]]]:
    """Return for each group the layers that write its units, and the positions on their output."""
    modules = dict(model.named_modules())
    heads = {group.inside.heads for group in spec.groups.values() if group.inside is not None}
    sites: dict[str, list[tuple[str, NDArray[np.int64]]]] = {}
    for name, group in spec.groups.items():
        if name in heads or group.inside is not None:
            continue
        for use in group.uses:
            module, _, parameter = use.tensor.rpartition(".")
            kind = type(modules.get(module))
            if parameter == "weight" and kind in _UNIT_AXIS and use.axis == _WEIGHT_AXIS.get(kind, 0):
                sites.setdefault(name, []).append((module, use.positions))
    return sites


def _correlations(
    model: nn.Module, reference: StateDict, other: StateDict, names: set[str], batches: Iterable[Tensor]
) -> dict[str, NDArray[np.float64]]:
    """Return for each layer the correlations of all units of the reference and of the other."""
    sums: dict[str, list[Tensor]] = {}
    for batch in batches:
        left, right = (_outputs(model, state, names, batch) for state in (reference, other))
        for name in left.keys() & right.keys():
            moments = _moments(left[name], right[name])
            sums[name] = (
                [old + new for old, new in zip(sums[name], moments, strict=True)] if name in sums else list(moments)
            )
    found = {}
    for name, (count, total_left, total_right, square_left, square_right, product) in sums.items():
        mean_left, mean_right = total_left / count, total_right / count
        covariance = product / count - torch.outer(mean_left, mean_right)
        scale_left = (square_left / count - mean_left.square()).clamp_min(1e-12).sqrt()
        scale_right = (square_right / count - mean_right.square()).clamp_min(1e-12).sqrt()
        found[name] = (covariance / torch.outer(scale_left, scale_right)).numpy()
    return found


def _moments(left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
    sums = (left.sum(0), right.sum(0), left.square().sum(0), right.square().sum(0), left.T @ right)
    return torch.tensor(float(len(left))), *(total.cpu().double() for total in sums)


@torch.no_grad()
def _outputs(model: nn.Module, state: StateDict, names: set[str], batch: Tensor) -> dict[str, Tensor]:
    """Return the outputs of each named layer on a batch, shape (samples and places, units)."""
    outputs: dict[str, list[Tensor]] = {}

    def note(call: Call) -> None:
        units = call.output.movedim(_UNIT_AXIS[type(call.module)], -1)
        outputs.setdefault(call.name, []).append(units.reshape(-1, units.shape[-1]))

    observe(model, state, batch, note, of=sorted(names))
    return {name: torch.cat(parts) for name, parts in outputs.items()}
