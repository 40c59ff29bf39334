r"""Repair the activation statistics of a merged network (Jordan et al., *REPAIR*, the paper's reference [17]).

Averaging two networks whose units do not agree perfectly shrinks the variance of every pre-activation, layer by
layer; the merged network is then flat and trains slowly. The repair rescales each output unit of each linear or
convolutional layer so that its mean and standard deviation are again the interpolation of those of the two ends:
:math:`(1-\alpha)\mu_b + \alpha\mu_s` and :math:`(1-\alpha)\sigma_b + \alpha\sigma_s`. It looks at inputs only, never
at labels, and is folded into weights and biases: the model keeps its architecture. Networks with normalisation layers
mend themselves in those layers, once BatchNorm's statistics are recomputed (``norm_statistics.py``).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from fl_market.merging.interpolation import Alpha, Merge, interpolate
from fl_market.merging.norm_statistics import NormStatistics
from fl_market.parameters import StateDict

Statistics = Mapping[str, tuple[Tensor, Tensor]]
"""Layer -> mean and standard deviation of each output unit."""

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
SAMPLES = 512
_STRONGEST = 5.0
"""A unit is rescaled by at most this factor, and at least by its inverse: dead units stay dead."""


def repair_for(model: nn.Module, inputs: Tensor) -> "Repair | NormStatistics | None":
    """Return what mends merged networks of one architecture, or None where nothing has to be.

    Without normalisation layers that is :class:`Repair`, with BatchNorm :class:`NormStatistics`; the other norms
    compute their statistics anew for every sample.
    """
    modules = list(model.modules())
    if any(isinstance(module, _BatchNorm) and module.track_running_stats for module in modules):
        return NormStatistics(model, inputs)
    return None if any(isinstance(module, _NORMS) for module in modules) else Repair(model, inputs)


class Repair:
    """Repairs merged state dicts of one architecture on some unlabelled inputs.

    Parameters
    ----------
    model
        The architecture.
    inputs
        Unlabelled samples, shape (samples, …): those of the fit split, of which the first 512 are enough.
    """

    def __init__(self, model: nn.Module, inputs: Tensor) -> None:
        self._model = model.eval()
        self._inputs = inputs[:SAMPLES]
        calls: dict[str, int] = {}
        self._run(model.state_dict(), lambda name, output: calls.update({name: calls.get(name, 0) + 1}), inputs[:2])
        modules = dict(model.named_modules())
        # a layer without a bias cannot take up a shift, and one that is called twice has no statistics of its own
        self.layers = tuple(
            name for name, count in calls.items() if count == 1 and getattr(modules[name], "bias", None) is not None
        )

    def merging(self, own: StateDict, other: StateDict) -> Merge:
        """Return how two state dicts are merged for a given purchased weight, repaired."""
        statistics = self.statistics(own), self.statistics(other)

        def merged(alpha: Alpha) -> StateDict:
            return self.merge(own, other, alpha, *statistics)

        return merged

    def statistics(self, state: StateDict) -> Statistics:
        """Return mean and standard deviation of each output unit of each layer that can be repaired."""
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def note(name: str, output: Tensor) -> None:
            if name in self.layers:
                _, *moments = _centre(output, self._unit_axis(name, output))
                found[name] = moments[0], moments[1]

        with torch.no_grad():
            self._run(state, note, self._inputs)
        return found

    def merge(
        self, own: StateDict, other: StateDict, alpha: Alpha, own_statistics: Statistics, other_statistics: Statistics
    ) -> dict[str, Tensor]:
        """Return the repaired interpolation of two state dicts, differentiable in ``alpha``.

        Parameters
        ----------
        own, other
            State dicts of the buyer and of the aligned seller.
        alpha
            Purchased weight, as ``interpolate`` takes it.
        own_statistics, other_statistics
            Of the two, from :meth:`statistics`.
        """
        merged = interpolate(own, other, alpha)

        def mend(name: str, output: Tensor) -> Tensor | None:
            if name not in self.layers or own[f"{name}.weight"] is other[f"{name}.weight"]:
                return None  # a layer that is not for sale stays the buyer's
            axis = self._unit_axis(name, output)
            (own_mean, own_std), (other_mean, other_std) = own_statistics[name], other_statistics[name]
            weight = alpha[f"{name}.bias"] if isinstance(alpha, Mapping) else alpha
            centred, mean, std = _centre(output, axis)
            target_mean = (1 - weight) * own_mean + weight * other_mean
            target_std = (1 - weight) * own_std + weight * other_std
            scale = (target_std / (std + 1e-6)).clamp(1 / _STRONGEST, _STRONGEST)
            parameter = merged[f"{name}.weight"]
            merged[f"{name}.weight"] = parameter * scale.reshape(-1, *[1] * (parameter.dim() - 1))
            merged[f"{name}.bias"] = (merged[f"{name}.bias"] - mean) * scale + target_mean
            shape = [-1 if dimension == axis else 1 for dimension in range(output.dim())]
            mended: Tensor = centred * scale.reshape(shape) + target_mean.reshape(shape)
            return mended

        self._run(dict(merged), mend, self._inputs)
        return merged

    def _unit_axis(self, name: str, output: Tensor) -> int:
        return output.dim() - 1 if isinstance(self._model.get_submodule(name), nn.Linear) else 1

    def _run(self, state: StateDict, visit: Callable[[str, Tensor], Tensor | None], inputs: Tensor) -> None:
        """Run the model and visit the output of each layer; what the visit returns takes the output's place."""

        def hook_for(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
            return lambda module, arguments, output: visit(name, output)

        handles = [
            module.register_forward_hook(hook_for(name))
            for name, module in self._model.named_modules()
            if isinstance(module, _LAYERS)
        ]
        try:
            functional_call(self._model, dict(state), (inputs,), tie_weights=False)
        finally:
            for handle in handles:
                handle.remove()


def _centre(output: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output less its mean, and mean and standard deviation of each unit."""
    others = [dimension for dimension in range(output.dim()) if dimension != axis]
    mean = output.mean(others, keepdim=True)
    centred = output - mean
    # a dead unit has variance 0, where the square root has no gradient
    std = torch.sqrt(centred.square().mean(others) + 1e-12)
    return centred, mean.flatten(), std
