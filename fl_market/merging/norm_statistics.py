"""Recompute the running statistics of a merged network's BatchNorm layers.

The mean and variance that two networks keep of their activations are not those of the merged network, and their
interpolation is not either (Jordan et al., *REPAIR*, section 4: "resetting" BatchNorm). One unlabelled pass with a
cumulative average finds the true ones. Before the first layer that was merged, the buyer's own are the true ones.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from fl_market.merging.interpolation import Alpha, Merge, interpolate
from fl_market.parameters import StateDict


class NormStatistics:
    """Recomputes BatchNorm statistics of one architecture on some unlabelled inputs.

    Parameters
    ----------
    model
        The architecture.
    inputs
        Unlabelled samples, shape (samples, …): those of the fit split.
    batch_size
        Samples a batch; each batch counts alike in the cumulative average.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, batch_size: int = 256) -> None:
        self._model = model
        # a last batch of a few samples would count as much as a whole one
        self._batches = inputs[: max(batch_size, len(inputs) // batch_size * batch_size)].split(batch_size)  # type: ignore[no-untyped-call]
        self._norms = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
        ]

    def recompute(self, state: StateDict, kept: Collection[str] = ()) -> dict[str, Tensor]:
        """Return the state dict with the statistics that its own activations have, but for those of the kept norms."""
        fresh = dict(state)
        norms = [(name, module) for name, module in self._norms if name not in kept]
        for name, _ in norms:
            for statistic in ("running_mean", "running_var", "num_batches_tracked"):
                fresh[f"{name}.{statistic}"] = state[f"{name}.{statistic}"].detach().clone()
            fresh[f"{name}.num_batches_tracked"].zero_()
        before = [(module, module.momentum, module.training) for _, module in norms]
        try:
            for _, module in norms:
                module.momentum = None  # the cumulative average
                module.train()
            with torch.no_grad():
                for batch in self._batches:
                    functional_call(self._model, fresh, (batch,), tie_weights=False)
        finally:
            for module, momentum, training in before:
                module.momentum, module.training = momentum, training
        for name, _ in norms:
            counter = f"{name}.num_batches_tracked"
            fresh[counter] = state[counter]
        return fresh

    def merging(self, own: StateDict, other: StateDict) -> Merge:
        """Return how two state dicts are merged for a given purchased weight, with the right statistics."""
        kept = self._unaffected(own, other)

        def merged(alpha: Alpha) -> StateDict:
            state = interpolate(own, other, alpha)
            for name in kept:
                for statistic in ("running_mean", "running_var"):
                    state[f"{name}.{statistic}"] = own[f"{name}.{statistic}"]
            return self.recompute(state, kept)

        return merged

    def _unaffected(self, own: StateDict, other: StateDict) -> set[str]:
        """Return the norms that see the same inputs in both networks, bit by bit: nothing before them was merged."""
        seen: list[dict[str, Tensor]] = []
        handles = [
            module.register_forward_pre_hook(lambda _, inputs, name=name: seen[-1].update({name: inputs[0]}))
            for name, module in self._norms
        ]
        try:
            for state in (own, other):
                seen.append({})
                with torch.no_grad():
                    functional_call(self._model.eval(), dict(state), (self._batches[0][:2],), tie_weights=False)
        finally:
            for handle in handles:
                handle.remove()
        return {name for name, inputs in seen[0].items() if torch.equal(inputs, seen[1][name])}
