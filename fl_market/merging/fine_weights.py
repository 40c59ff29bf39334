"""Weights of layers or rows that depend on labels as little as possible (beyond the paper).

Weights that gradient steps fit to a few labels follow these labels more than the seller. Two
remedies: weights that match the predictions of both ends on unlabelled inputs, as in AdaMerging
(Yang et al. 2024), which has the entropy of the merged model in their place; and label-fitted
weights that are shrunk towards the single α.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fl_market.data import Batch
from fl_market.gains.losses import ModelLoss
from fl_market.parameters import StateDict

STRENGTHS = (0.5, 1.0)
"""Shares of the way from the single α to the label-fitted weights."""


def shrunk(weights: Mapping[str, Tensor], single: float, strength: float) -> dict[str, Tensor]:
    """Return weights on the way from a single α to weights of layers or rows.

    Parameters
    ----------
    weights
        A weight for each floating-point tensor, as :func:`fl_market.merging.fit_weights` returns.
    single
        The α for the whole model.
    strength
        0 for the single α, 1 for the weights as they are.

    Examples
    --------
    >>> shrunk({"w": torch.tensor([0.2, 0.8])}, 0.4, 0.5)["w"].tolist()
    [0.30000001192092896, 0.6000000238418579]
    """
    return {name: (1 - strength) * single + strength * weight for name, weight in weights.items()}


def predictions_of_both(classifier: ModelLoss, own: StateDict, other: StateDict, inputs: Tensor) -> Batch:
    """Return inputs with the mean of two models' predicted probabilities as targets.

    Parameters
    ----------
    classifier
        The architecture.
    own, other
        Parameters of the buyer and of the aligned seller.
    inputs
        Unlabelled samples, shape (samples, …).
    """
    both = [torch.softmax(classifier.outputs(state, (inputs,)).float(), 1) for state in (own, other)]
    return inputs, (both[0] + both[1]) / 2


def simplest_as_good(losses: Sequence[Tensor]) -> int:
    """Return the first of several choices that is no worse than the best by more than chance.

    The one-standard-error rule of model selection, on paired differences.

    Parameters
    ----------
    losses
        Losses of each choice on the same held-out samples, shape (samples,), the simplest first.

    Examples
    --------
    >>> simplest_as_good([torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.1, 1.8, 2.9])])
    0
    >>> simplest_as_good([torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.4, 2.5])])
    1
    """
    best = min(losses, key=lambda some: float(some.mean()))
    return next(place for place, some in enumerate(losses) if as_good(some, best))


def as_good(losses: Tensor, best: Tensor) -> bool:
    """Return whether losses exceed the best ones by at most the standard error of the difference.

    The rule is that of Breiman et al. 1984, *Classification and Regression Trees*, section 3.4.3.
    """
    excess = (losses - best).double()
    return bool(excess.mean() <= excess.std() / len(excess) ** 0.5)
