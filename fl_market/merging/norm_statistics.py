"""Recompute the running statistics of a merged network's BatchNorm layers.

The mean and variance that two networks keep of their activations are not those of the merged
network, and their interpolation is not either (Jordan et al., *REPAIR*, section 4: "resetting"
BatchNorm). One unlabelled pass with a cumulative average finds the true ones. Before the first
layer that was merged, the buyer's own are the true ones.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from fl_market.merging.interpolation import Alpha, Merge, interpolate
from fl_market.merging.layers import tensor_of
from fl_market.merging.methods import MergeMethod
from fl_market.observation import Call, evaluation_mode, observe
from fl_market.parameters import StateDict, copied


class NormStatistics:
    """Recomputes BatchNorm statistics of one architecture on some unlabelled inputs.

    Parameters
    ----------
    model
        The architecture; its own parameters and its mode stay as they are.
    inputs
        Unlabelled samples, shape (samples, …): those of the fit split.
    batch_size
        Samples of a batch; each batch counts alike in the cumulative average.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, batch_size: int = 256) -> None:
        self._model = model
        # whole batches: a last batch of a few samples would count as much as a whole one
        self._batches = inputs[: max(batch_size, len(inputs) // batch_size * batch_size)].split(batch_size)  # type: ignore[no-untyped-call]
        self._norms = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
        ]

    def recompute(self, state: StateDict, kept: Collection[str] = ()) -> dict[str, Tensor]:
        """Return a state dict with the statistics of its own activations, except for some norms.

        Parameters
        ----------
        state
            A state dict, left as it is.
        kept
            Names of the norms whose statistics stay.
        """
        fresh = copied(state)
        norms = [(name, module) for name, module in self._norms if name not in kept]
        for name, _ in norms:
            for statistic in ("running_mean", "running_var", "num_batches_tracked"):
                fresh[tensor_of(name, statistic)] = state[tensor_of(name, statistic)].detach().clone()
            fresh[f"{name}.num_batches_tracked"].zero_()
        momenta = [module.momentum for _, module in norms]
        with evaluation_mode(self._model), torch.no_grad():
            try:
                for _, module in norms:
                    module.momentum = None  # the cumulative average
                    module.train()
                for batch in self._batches:
                    functional_call(self._model, fresh, (batch,), tie_weights=False)
            finally:
                for (_, module), momentum in zip(norms, momenta, strict=True):
                    module.momentum = momentum
        for name, _ in norms:
            counter = f"{name}.num_batches_tracked"
            fresh[counter] = state[counter]
        return fresh

    def merging(self, own: StateDict, other: StateDict, method: MergeMethod = interpolate) -> Merge:
        """Return the merge of two state dicts as a function of the weight, with true statistics.

        Parameters
        ----------
        own, other
            State dicts of the buyer and of the aligned seller.
        method
            Makes the merge whose statistics are recomputed.
        """
        kept = self._unaffected(own, other)

        def merged(alpha: Alpha) -> StateDict:
            state = copied(method(own, other, alpha))
            for name in kept:
                for statistic in ("running_mean", "running_var"):
                    state[tensor_of(name, statistic)] = own[tensor_of(name, statistic)]
            return self.recompute(state, kept)

        return merged

    def _unaffected(self, own: StateDict, other: StateDict) -> set[str]:
        """Return the norms with equal inputs in both networks: no layer before them was merged."""
        seen: list[dict[str, Tensor]] = []

        def note(call: Call) -> None:
            seen[-1][call.name] = call.inputs[0]

        with torch.no_grad():
            for state in (own, other):
                seen.append({})
                observe(self._model, state, self._batches[0][:2], note, of=[name for name, _ in self._norms])
        return {name for name, inputs in seen[0].items() if torch.equal(inputs, seen[1][name])}
