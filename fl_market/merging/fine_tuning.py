"""Fine-tune a model on the broker's data: not a trade, but the fair control for FedAvg."""

from collections.abc import Collection

from torch import Tensor

from fl_market.data import Batch
from fl_market.gains.losses import Loss
from fl_market.merging.descent import Variables, descend
from fl_market.merging.layers import layer_of
from fl_market.parameters import StateDict, copied


def fine_tune(
    state: StateDict,
    loss: Loss,
    fit_data: Batch,
    *,
    steps: int = 40,
    learning_rate: float = 1e-3,
    batch_size: int = 0,
    layers: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Return the parameters with the least held-out loss, after some Adam steps.

    Parameters
    ----------
    state
        Where to start; it is left as it is.
    loss
        Losses of a state dict on a batch, one for each sample.
    fit_data
        The fit split: the steps see all but its held-out part.
    steps, learning_rate
        Adam's.
    batch_size
        Samples of each step, in turn; 0 for all.
    layers
        Names of the layers that the steps change; None for all.
    """

    def with_weights(weights: Variables) -> dict[str, Tensor]:
        tuned = copied(state)
        tuned.update(weights)
        return tuned

    weights = {
        name: tensor.detach().clone().requires_grad_()
        for name, tensor in state.items()
        if tensor.is_floating_point() and (layers is None or layer_of(name) in layers)
    }
    found = descend(
        weights, with_weights, loss, fit_data, steps=steps, learning_rate=learning_rate, batch_size=batch_size
    )
    return with_weights(found.variables)
