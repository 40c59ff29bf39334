r"""Repair the activation statistics of a merged network (*REPAIR*, the paper's reference [17]).

Source: Jordan et al. 2023. Averaging two networks whose units do not agree perfectly shrinks the
variance of every pre-activation, layer by layer. The merged network is then flat and trains slowly.
The repair rescales each output unit of each linear or convolutional layer, so that its mean and
standard deviation are again the interpolation of those of the two ends: :math:`(1-\alpha)\mu_b +
\alpha\mu_s` and :math:`(1-\alpha)\sigma_b + \alpha\sigma_s`. It uses inputs only, never labels, and
is folded into weights and biases: the model keeps its architecture. Networks with normalisation
layers mend themselves in those layers, once BatchNorm's statistics are recomputed
(``norm_statistics.py``).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from fl_market.merging.interpolation import Alpha, Merge, interpolate
from fl_market.merging.layers import tensor_of
from fl_market.merging.methods import MergeMethod
from fl_market.merging.norm_statistics import NormStatistics
from fl_market.observation import Call, Visit, observe
from fl_market.parameters import StateDict, copied

Statistics = Mapping[str, tuple[Tensor, Tensor]]
"""Layer -> mean and standard deviation of each output unit."""

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
SAMPLES = 512
_STRONGEST = 5.0
"""A unit is rescaled by at most this factor, and at least by its inverse: dead units stay dead."""


def repair_for(model: nn.Module, inputs: Tensor) -> "Repair | NormStatistics | None":
    """Return the repair of merged networks of one architecture, or None where none is needed.

    Without normalisation layers that is :class:`Repair`, with BatchNorm :class:`NormStatistics`.
    The other norms compute their statistics anew for every sample.
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
        The architecture; its own parameters and its mode stay as they are.
    inputs
        Unlabelled samples, shape (samples, …): those of the fit split, of which the first 512 are
        enough.

    Attributes
    ----------
    layers
        Names of the layers that are repaired.
    """

    def __init__(self, model: nn.Module, inputs: Tensor) -> None:
        self._model = model
        self._inputs = inputs[:SAMPLES]
        self.layers = tuple(name for name, module in model.named_modules() if isinstance(module, _LAYERS))
        calls: list[str] = []
        self._observe(model.state_dict(), lambda call: calls.append(call.name), inputs[:2])
        # a layer without bias takes up no shift; one called twice has no statistics of its own
        self.layers = tuple(
            name
            for name in calls
            if calls.count(name) == 1 and getattr(model.get_submodule(name), "bias", None) is not None
        )

    def merging(self, own: StateDict, other: StateDict, method: MergeMethod = interpolate) -> Merge:
        """Return the repaired merge of two state dicts as a function of the purchased weight.

        Parameters
        ----------
        own, other
            State dicts of the buyer and of the aligned seller.
        method
            Makes the merge that is repaired.
        """
        statistics = self.statistics(own), self.statistics(other)

        def merged(alpha: Alpha) -> StateDict:
            return self.merge(own, other, alpha, *statistics, method=method)

        return merged

    def statistics(self, state: StateDict) -> Statistics:
        """Return mean and standard deviation of each output unit of each repairable layer."""
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def note(call: Call) -> None:
            _, *moments = _centre(call.output, _unit_axis(call))
            found[call.name] = moments[0], moments[1]

        with torch.no_grad():
            self._observe(state, note, self._inputs)
        return found

    def merge(
        self,
        own: StateDict,
        other: StateDict,
        alpha: Alpha,
        own_statistics: Statistics,
        other_statistics: Statistics,
        *,
        method: MergeMethod = interpolate,
    ) -> dict[str, Tensor]:
        """Return the repaired merge of two state dicts, differentiable in ``alpha``.

        Parameters
        ----------
        own, other
            State dicts of the buyer and of the aligned seller.
        alpha
            Purchased weight, as ``interpolate`` takes it.
        own_statistics, other_statistics
            Of the two, from :meth:`statistics`.
        method
            Makes the merge that is repaired.
        """
        merged = copied(method(own, other, alpha))

        def mend(call: Call) -> Tensor | None:
            name, axis = call.name, _unit_axis(call)
            weights, biases = tensor_of(name, "weight"), tensor_of(name, "bias")
            if own[weights] is other[weights]:
                return None  # a layer that is not for sale stays the buyer's
            (own_mean, own_std), (other_mean, other_std) = own_statistics[name], other_statistics[name]
            weight = alpha[biases] if isinstance(alpha, Mapping) else alpha
            centred, mean, std = _centre(call.output, axis)
            target_mean = (1 - weight) * own_mean + weight * other_mean
            target_std = (1 - weight) * own_std + weight * other_std
            scale = (target_std / (std + 1e-6)).clamp(1 / _STRONGEST, _STRONGEST)
            parameter = merged[weights]
            merged[weights] = parameter * scale.reshape(-1, *[1] * (parameter.dim() - 1))
            merged[biases] = (merged[biases] - mean) * scale + target_mean
            shape = [-1 if dimension == axis else 1 for dimension in range(call.output.dim())]
            mended: Tensor = centred * scale.reshape(shape) + target_mean.reshape(shape)
            return mended

        self._observe(merged, mend, self._inputs)
        return merged

    def _observe(self, state: StateDict, visit: Visit, inputs: Tensor) -> None:
        # a copy: the repair changes the state while the model runs with it
        observe(self._model, dict(state), inputs, visit, of=self.layers)


def _unit_axis(call: Call) -> int:
    """Return the axis of a layer's output along which its units lie."""
    return call.output.dim() - 1 if isinstance(call.module, nn.Linear) else 1


def _centre(output: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output less its mean, and mean and standard deviation of each unit."""
    others = [dimension for dimension in range(output.dim()) if dimension != axis]
    mean = output.mean(others, keepdim=True)
    centred = output - mean
    # a dead unit has variance 0, where the square root has no gradient
    std = torch.sqrt(centred.square().mean(others) + 1e-12)
    return centred, mean.flatten(), std
