r"""Pick the purchased weight: :math:`\alpha = \arg\min_{\nu\in(0,1]} L_z((1-\nu)\hat\theta_b + \nu\hat\theta_s)`.

Paper, section 3.3, on the broker's *fit* split. One α for the whole model as in the paper; beyond it, one for each
layer or for each output row, found by gradient steps that start from the best single α.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.gains.losses import Loss
from fl_market.merging.interpolation import Alpha, Merge, interpolate
from fl_market.merging.layers import layer_of
from fl_market.merging.rows import Rows, best_rows, row_gains
from fl_market.parameters import StateDict, state_of

GRANULARITIES = ("model", "layer", "row")
GRID = tuple(round(0.05 + 0.1 * step, 2) for step in range(10))
"""The published grid of α."""
REFINEMENTS = 2
HELD_OUT = 0.2
"""Share of the fit split on which the gradient steps are stopped; the steps see the rest."""
HELD_OUT_EVERY = 5
"""Steps on batches between two looks at that share; steps on the whole are each looked at."""


def fit_weights(
    buyer: nn.Module | StateDict,
    seller: nn.Module | StateDict,
    loss: Loss,
    fit_data: Batch,
    granularity: str = "model",
    *,
    merge: Merge | None = None,
    together: bool = False,
    steps: int = 40,
    learning_rate: float = 0.1,
    batch_size: int = 0,
    budget: int | None = None,
) -> Alpha:
    """Return the purchased weight that minimises the broker's loss on the fit split.

    Parameters
    ----------
    buyer, seller
        Modules or state dicts, the seller's aligned to the buyer's.
    loss
        Losses of a state dict on a batch, one for each sample, differentiable in the state dict.
    fit_data
        The fit split. Whoever certifies the gain must do so on other data.
    granularity
        ``"model"``: one α. ``"layer"``: one for each module that owns parameters. ``"row"``: one for each output
        unit of each module.
    merge
        How the two are merged for a given weight: plain interpolation by default.
    together
        Evaluate the grid of α in one vectorised pass: loss and merge must bear ``torch.vmap``. For perceptrons that
        are repaired this is half as fast again; convolutions and attention are slower this way.
    steps, learning_rate
        Adam's steps on the logits of the α's, for layers and rows.
    batch_size
        Samples that each evaluation of a candidate sees: the first so many for the single α, and others in turn for
        each gradient step; 0 for the whole fit split.
    budget
        How many parameters may be bought at most, for rows; the best ones are, and all others have the weight 0.

    Returns
    -------
    float or dict
        A number for ``"model"``, else a weight for each floating-point tensor, as ``interpolate`` takes it.

    Raises
    ------
    MarketError
        If the granularity is none of the three, or no merged model has a finite loss.
    """
    if granularity not in GRANULARITIES:
        raise MarketError(f"unknown granularity {granularity!r}; accepted are {', '.join(GRANULARITIES)}")
    own, other = state_of(buyer), state_of(seller)
    merged = merge or (lambda alpha: interpolate(own, other, alpha))
    names = [name for name, tensor in own.items() if tensor.is_floating_point()]

    searched = _batches(fit_data, batch_size)[0]

    def mean_loss(alpha: Alpha) -> Tensor:
        return loss(merged(alpha), searched).mean()

    def mean_losses(alphas: Sequence[float]) -> list[float]:
        if not together:
            return [float(mean_loss(alpha)) for alpha in alphas]
        batched = torch.vmap(lambda alpha: mean_loss({name: alpha for name in names}))  # noqa: C420  (mypy)
        return [float(value) for value in batched(torch.tensor(alphas))]

    with torch.no_grad():
        single = minimise_scalar(mean_losses)
    if granularity == "model":
        return single
    # what both share (the layers that are not for sale) takes no part
    traded = {name: own[name] for name in names if own[name] is not other[name]}
    shares = _Shares(own, single, by_row=granularity == "row")
    alpha = _descend(shares, merged, loss, fit_data, steps, learning_rate, batch_size)
    if budget is None or granularity != "row" or sum(tensor.numel() for tensor in traded.values()) <= budget:
        return alpha
    layers = {layer_of(name) for name in traded}
    gains = row_gains(shares.weights(), lambda weights: mean_loss(shares.expand(weights)))
    shares.only(best_rows(budget, {layer: gains[layer] for layer in gains if layer in layers}, shares.row_sizes()))
    return _descend(shares, merged, loss, fit_data, steps, learning_rate, batch_size)


def mean_alpha(alpha: Alpha, state: StateDict, layers: Collection[str] | None = None) -> float:
    """Return the share of the seller in what was bought: the mean α over the parameters of some layers, or of all."""
    if isinstance(alpha, float):
        return alpha
    bought = [
        weight.expand_as(state[name]) for name, weight in alpha.items() if layers is None or layer_of(name) in layers
    ]
    count = sum(int((weight > 0).sum()) for weight in bought)
    return sum(float(weight.sum()) for weight in bought) / count if count else 0.0


def minimise_scalar(values: Callable[[Sequence[float]], Sequence[float]]) -> float:
    """Return an α whose value is at most that of every point of the published grid, in at most 12 evaluations.

    The grid's ten points, asked for together, and then the lowest points of parabolas through the best point and those
    beside it.

    Raises
    ------
    MarketError
        If no value is finite.
    """
    known: dict[float, float] = {}

    def try_out(*alphas: float) -> None:
        new = [alpha for alpha in alphas if alpha not in known]
        for alpha, loss in zip(new, values(new) if new else (), strict=True):
            known[alpha] = loss if np.isfinite(loss) else np.inf

    def best() -> float:
        return min(known, key=lambda alpha: (known[alpha], alpha))

    try_out(*GRID)
    if not np.isfinite(known[best()]):
        raise MarketError("no merged model has a finite loss on the broker's fit split")
    for _ in range(REFINEMENTS):
        candidate = _vertex(best(), known)
        if candidate is None:
            break
        try_out(candidate)
    return best()


def _vertex(best: float, known: dict[float, float]) -> float | None:
    """Return the lowest point of the parabola through the best point and those beside it, if it has one."""
    nearest = sorted(sorted(known, key=lambda alpha: abs(alpha - best))[:3])
    values = [known[alpha] for alpha in nearest]
    if not np.isfinite(values).all():
        return None
    curvature, slope, _ = np.polyfit(nearest, values, 2)
    if curvature <= 0:
        return None
    return round(float(np.clip(-slope / (2 * curvature), 0.01, 1.0)), 4)


def hold_out(fit_data: Batch) -> tuple[Batch, Batch]:
    """Return the part of the fit split that gradient steps see, and the part that stops them."""
    count = len(fit_data[0])
    cut = count - max(1, round(HELD_OUT * count))
    return tuple(part[:cut] for part in fit_data), tuple(part[cut:] for part in fit_data)


def _batches(data: Batch, batch_size: int) -> list[Batch]:
    """Return whole batches of some size; all of the data in one where that is 0 or more than there is."""
    count = len(data[0]) // batch_size if batch_size else 0
    if count < 1:
        return [data]
    return [tuple(part[place * batch_size : (place + 1) * batch_size] for part in data) for place in range(count)]


class _Shares:
    """Logits of many α's: one for each layer, or for each output row of each layer."""

    def __init__(self, state: StateDict, start: float, *, by_row: bool) -> None:
        self._state = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
        rows: dict[str, int] = defaultdict(lambda: 1)
        if by_row:
            for name, tensor in self._state.items():
                if tensor.dim():
                    rows[layer_of(name)] = max(rows[layer_of(name)], tensor.shape[0])
        logit = float(np.log(start) - np.log1p(-min(start, 0.999)))
        device = next(iter(self._state.values())).device
        self.logits = {
            layer: torch.full((rows[layer],), logit, device=device, requires_grad=True)
            for layer in dict.fromkeys(map(layer_of, self._state))
        }
        self._bought: Rows = {layer: torch.ones_like(logits) for layer, logits in self.logits.items()}

    def only(self, bought: Rows) -> None:
        """Buy some rows only: 1 for each of them, 0 for each other, and nothing of layers that are not named."""
        self._bought = {layer: bought.get(layer, torch.zeros_like(some)) for layer, some in self.logits.items()}

    def weights(self) -> dict[str, Tensor]:
        """Return the weight of each layer or row."""
        return {layer: torch.sigmoid(logits) * self._bought[layer] for layer, logits in self.logits.items()}

    def row_sizes(self) -> dict[str, float]:
        """Return the parameters of one row of each layer."""
        sizes = dict.fromkeys(self.logits, 0.0)
        for name, tensor in self._state.items():
            sizes[layer_of(name)] += tensor.numel() / len(self.logits[layer_of(name)])
        return sizes

    def alpha(self) -> dict[str, Tensor]:
        """Return the weights that the logits stand for, each shaped so that it broadcasts against its tensor."""
        return self.expand(self.weights())

    def expand(self, weights: Rows) -> dict[str, Tensor]:
        """Return weights of layers or rows, each shaped so that it broadcasts against its tensor."""
        return {name: self._broadcast(weights[layer_of(name)], tensor) for name, tensor in self._state.items()}

    @staticmethod
    def _broadcast(alpha: Tensor, tensor: Tensor) -> Tensor:
        if len(alpha) > 1 and (not tensor.dim() or tensor.shape[0] != len(alpha)):
            alpha = alpha.mean(0, keepdim=True)
        return alpha.reshape(-1, *[1] * (tensor.dim() - 1)) if tensor.dim() else alpha.reshape(())


def _descend(
    shares: _Shares, merged: Merge, loss: Loss, fit_data: Batch, steps: int, learning_rate: float, batch_size: int
) -> dict[str, Tensor]:
    """Take Adam steps on the logits and return the α's with the least loss on the held-out part."""
    seen, held_out = hold_out(fit_data)
    batches = _batches(seen, batch_size)
    optimiser = torch.optim.Adam(shares.logits.values(), lr=learning_rate)
    best, best_loss = shares.alpha(), float("inf")
    for step in range(steps + 1):
        alpha = shares.alpha()
        state = merged(alpha)
        if step == steps or not batch_size or step % HELD_OUT_EVERY == 0:
            with torch.no_grad():
                held_out_loss = float(loss(state, held_out).mean())
            if held_out_loss < best_loss:
                best, best_loss = alpha, held_out_loss
        if step < steps:
            optimiser.zero_grad()
            loss(state, batches[step % len(batches)]).mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return {name: weight.detach() for name, weight in best.items()}
