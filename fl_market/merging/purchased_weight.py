r"""Pick :math:`\alpha = \arg\min_{\nu\in(0,1]} L_z((1-\nu)\hat\theta_b + \nu\hat\theta_s)`.

Paper, section 3.3, on the broker's *fit* split. The paper has one α for the whole model. Beyond it,
there may be one for each layer or for each output row, found by gradient steps that start from the
best single α.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from fl_market.choices import GRANULARITIES
from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.gains.losses import Loss
from fl_market.merging.descent import Variables, descend, whole_batches
from fl_market.merging.fine_weights import as_good
from fl_market.merging.interpolation import Alpha, Merge, interpolate
from fl_market.merging.layers import layer_of
from fl_market.merging.rows import best_rows, row_gains
from fl_market.merging.shares import Shares
from fl_market.parameters import StateDict, state_of

GRID = tuple(round(0.05 + 0.1 * step, 2) for step in range(10))
"""The published grid of α."""
REFINEMENTS = 2


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
    towards: float | None = None,
    limit: float = 1.0,
) -> Alpha:
    """Return the purchased weight that minimises the broker's loss on the fit split.

    Parameters
    ----------
    buyer, seller
        Modules or state dicts, the seller's aligned to the buyer's.
    loss
        Losses of a state dict on a batch, one for each sample, differentiable in the state dict.
    fit_data
        The fit split. The gain must be certified on other data.
    granularity
        ``"model"``: one α. ``"layer"``: one for each module that owns parameters. ``"row"``: one
        for each output unit of each module.
    merge
        How the two are merged for a given weight: plain interpolation by default.
    together
        Evaluate the grid of α in one vectorised pass: loss and merge must bear ``torch.vmap``. It
        takes two thirds of the time for perceptrons that are repaired, and more time for
        convolutions and attention.
    steps, learning_rate
        Adam's steps on the logits of the α's, for layers and rows.
    batch_size
        Samples that each evaluation of a candidate sees: the first ones for the single α, and
        others in turn for each gradient step; 0 for the whole fit split.
    budget
        For rows: the most parameters that may be bought. The best rows are; all others have the
        weight 0.
    towards
        A patient choice of the single α: of those that are no worse than the best one beyond the
        standard error of the difference, the nearest to this weight. None for the best one, as
        published.
    limit
        Highest weight; the search is over (0, limit].

    Returns
    -------
    float or dict
        A number for ``"model"``, else a weight for each floating-point tensor, as ``interpolate``
        takes it.

    Raises
    ------
    MarketError
        If the granularity is unknown, or no merged model has a finite loss.
    """
    if granularity not in GRANULARITIES:
        raise MarketError(f"granularity must be one of {', '.join(GRANULARITIES)}; got {granularity!r}")
    own, other = state_of(buyer), state_of(seller)
    whole = merge or partial(interpolate, own, other)
    aim = None if towards is None else min(towards / limit, 1.0)

    def merged(share: Alpha) -> StateDict:  # the search is over shares of the limit
        return whole(_times(share, limit))

    searched = whole_batches(fit_data, batch_size)[0]

    def mean_loss(alpha: Alpha) -> Tensor:
        return loss(merged(alpha), searched).mean()

    single = _fit_single(own, lambda alpha: loss(merged(alpha), searched), aim, together=together)
    if granularity == "model":
        return _times(single, limit)
    shares = Shares(own, single, by_row=granularity == "row")

    def descended() -> dict[str, Tensor]:
        return _descended(shares, merged, loss, fit_data, steps, learning_rate, batch_size)

    alpha = descended()
    # tensors that both share (the layers that are not for sale) take no part
    traded = [name for name, tensor in own.items() if tensor.is_floating_point() and tensor is not other[name]]
    if budget is None or granularity != "row" or sum(own[name].numel() for name in traded) <= budget:
        return _times(alpha, limit)
    gains = row_gains(shares.weights(shares.logits), lambda weights: mean_loss(shares.alpha(weights)))
    layers = set(map(layer_of, traded))
    shares.only(best_rows(budget, {layer: gains[layer] for layer in gains if layer in layers}, shares.row_sizes()))
    return _times(descended(), limit)


def _descended(
    shares: Shares,
    merged: Merge,
    loss: Loss,
    fit_data: Batch,
    steps: int,
    learning_rate: float,
    batch_size: int,
) -> dict[str, Tensor]:
    """Return the weights after gradient steps on their logits."""

    def model(logits: Variables) -> StateDict:
        return merged(shares.alpha(shares.weights(logits)))

    found = descend(
        shares.logits, model, loss, fit_data, steps=steps, learning_rate=learning_rate, batch_size=batch_size
    )
    return shares.alpha(shares.weights(found.variables))


def _times(alpha: Alpha, limit: float) -> Alpha:
    if limit == 1:
        return alpha
    if isinstance(alpha, Mapping):
        return {name: weight * limit for name, weight in alpha.items()}
    return alpha * limit


def _fit_single(own: StateDict, losses: Callable[[Alpha], Tensor], towards: float | None, *, together: bool) -> float:
    """Return the α for the whole model."""
    names = [name for name, tensor in own.items() if tensor.is_floating_point()]
    known: dict[float, Tensor] = {}

    def mean_losses(alphas: Sequence[float]) -> list[float]:
        if together:
            batched = torch.vmap(lambda alpha: losses({name: alpha for name in names}))  # noqa: C420  (mypy)
            found = list(batched(torch.tensor(alphas)))
        else:
            found = [losses(alpha) for alpha in alphas]
        known.update(zip(alphas, found, strict=True))
        return [float(some.mean()) for some in found]

    with torch.no_grad():
        best = minimise_scalar(mean_losses)
        if towards is None:
            return best
        if towards not in known:
            mean_losses([towards])
        # the best α of this round by a hair is not the best for the rounds to come
        candidates = [best, *(alpha for alpha in known if as_good(known[alpha], known[best]))]
        return min(candidates, key=lambda alpha: (abs(alpha - towards), alpha))


def mean_alpha(alpha: Alpha, state: StateDict, layers: Collection[str] | None = None) -> float:
    """Return the mean α over the parameters that were bought: the seller's share in them.

    Parameters
    ----------
    alpha
        Purchased weight, as :func:`fit_weights` returns it. Parameters of weight 0 are not bought.
    state
        The buyer's parameters, for their shapes.
    layers
        The layers that count; by default all.
    """
    if isinstance(alpha, float):
        return alpha
    bought = [
        weight.expand_as(state[name]) for name, weight in alpha.items() if layers is None or layer_of(name) in layers
    ]
    count = sum(int((weight > 0).sum()) for weight in bought)
    return sum(float(weight.sum()) for weight in bought) / count if count else 0.0


def minimise_scalar(values: Callable[[Sequence[float]], Sequence[float]]) -> float:
    """Return an α whose value is at most that of each point of the published grid.

    At most 12 evaluations: the grid's ten points, asked for together, and then the lowest points of
    parabolas through the best point and those beside it.

    Parameters
    ----------
    values
        From some α's to the values to be minimised.

    Raises
    ------
    MarketError
        If no value is finite.

    Examples
    --------
    >>> minimise_scalar(lambda alphas: [(alpha - 0.42) ** 2 for alpha in alphas])
    0.42
    """
    known: dict[float, float] = {}

    def evaluate(*alphas: float) -> None:
        new = [alpha for alpha in alphas if alpha not in known]
        for alpha, loss in zip(new, values(new) if new else (), strict=True):
            known[alpha] = loss if np.isfinite(loss) else np.inf

    def best() -> float:
        return min(known, key=lambda alpha: (known[alpha], alpha))

    evaluate(*GRID)
    if not np.isfinite(known[best()]):
        raise MarketError("no merged model has a finite loss on the broker's fit split")
    for _ in range(REFINEMENTS):
        candidate = _vertex(best(), known)
        if candidate is None:
            break
        evaluate(candidate)
    return best()


def _vertex(best: float, known: dict[float, float]) -> float | None:
    """Return the lowest point of the parabola through the best point and its neighbours, if any."""
    nearest = sorted(sorted(known, key=lambda alpha: abs(alpha - best))[:3])
    values = [known[alpha] for alpha in nearest]
    if not np.isfinite(values).all():
        return None
    curvature, slope, _ = np.polyfit(nearest, values, 2)
    if curvature <= 0:
        return None
    return round(float(np.clip(-slope / (2 * curvature), 0.01, 1.0)), 4)
