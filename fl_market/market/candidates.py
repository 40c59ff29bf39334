"""Candidates: the few sellers that the broker tries for each buyer (beyond the paper).

To try all pairs of N agents costs N² trials. A trial is expensive, and what it will find can be
foreseen from the outputs of the two models, each computed once: two models whose outputs together
are better than the buyer's alone are likely to be worth a merge. Outputs are brought to one scale
before they are added, because a confident model is not a better one. The broker tries the sellers
of the best pairs.

``fl-market bench scale`` compares a market with candidates and one in which all pairs are tried.

The forecast knows nothing of units that cannot be matched, and a cheat can have excellent outputs
and parameters that nobody can use. A seller from which a buyer gained nothing several times in a
row is therefore left out for some rounds, as long as others wait.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_market.market.buyers import Buyer, Buyers
from fl_market.parameters import StateDict

Fruitless = Mapping[tuple[str, str], tuple[int, int]]
"""Buyer and seller -> trials without a gain in a row, and the round of the last one."""

SAMPLES = 256
"""Number of the broker's samples on which models are compared."""
POOL = 32
"""Sellers of a buyer that are compared with it sample by sample; more agents are first ranked by
their accuracy in each class."""
WARMTHS = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Scales at which added outputs are judged; the best one counts."""
LONGEST_ABSENCE = 64


@dataclass(frozen=True)
class View:
    """What the broker sees of an agent's model on some of its samples.

    Attributes
    ----------
    labels
        The classes of the outputs.
    outputs
        Outputs of standard deviation 1 around each sample's mean, shape (samples, labels).
    accuracies
        Share of right answers in each class of the broker, shape (classes,).
    weights
        What a class is worth to the agent as a buyer, shape (classes,).
    """

    labels: tuple[int, ...]
    outputs: Tensor
    accuracies: Tensor
    weights: Tensor


def view_of(model: StateDict, buyer: Buyer, buyers: Buyers) -> View:
    """Return the view of an agent's model.

    Parameters
    ----------
    model
        Its parameters.
    buyer, buyers
        The agent's architecture and objective, and those of all agents.
    """
    common = buyers.common
    inputs, targets = (part[:SAMPLES] for part in common.objective.fit)
    labels, classes = buyer.labels or tuple(range(common.classes)), common.classes
    classifier = buyers.of_labels(buyer.labels).objective.classifier
    assert classifier is not None
    outputs = classifier.outputs(classifier.hardware.place_state(model), (inputs, targets)).float().cpu()
    outputs = outputs - outputs.mean(1, keepdim=True)
    spread = outputs.square().mean().sqrt()
    outputs = torch.nan_to_num(outputs / spread.clamp(min=torch.finfo(outputs.dtype).tiny))
    targets = targets.cpu()
    right = torch.tensor(labels)[outputs.argmax(1)] == targets
    counts = torch.bincount(targets, minlength=classes)
    accuracies = torch.bincount(targets[right], minlength=classes) / counts.clamp(min=1)
    return View(labels, outputs, accuracies, _worth(buyer, labels, classes))


def _worth(buyer: Buyer, labels: Sequence[int], classes: int) -> Tensor:
    """Return what each class of the broker is worth to a buyer: its share of the buyer's data."""
    shares = torch.bincount(buyer.objective.fit[1].cpu(), minlength=len(labels)).float()
    if buyer.objective.class_weights is not None:
        shares = shares * buyer.objective.class_weights.cpu()
    worth = torch.zeros(classes)
    worth[torch.tensor(labels)] = shares / shares.sum()
    return worth


def candidates(
    views: Mapping[str, View],
    sellers: Collection[str],
    targets: Tensor,
    number: int,
    fruitless: Fruitless,
    market_round: int,
) -> dict[str, list[str]]:
    """Return the sellers that are to be tried for each buyer, in the order of names.

    Parameters
    ----------
    views
        Agent -> the view of its model.
    sellers
        Agents with something to sell.
    targets
        The broker's, of the samples behind the views.
    number
        Largest number of sellers for each buyer.
    fruitless, market_round
        Trials without a gain before this round, and its number.
    """
    found = {buyer: sorted(set(sellers) - {buyer}) for buyer in sorted(views)}
    for buyer, others in found.items():
        pool = _pool(views, buyer, others, max(POOL, 2 * number))
        expected = dict(zip(pool, _expected_losses(views, buyer, pool, targets), strict=True))

        def order(seller: str, buyer: str = buyer, expected: Mapping[str, float] = expected) -> tuple[bool, float, str]:
            return _is_absent(fruitless.get((buyer, seller)), market_round), expected[seller], seller

        found[buyer] = sorted(sorted(pool, key=order)[:number])
    return found


def after_trials(
    fruitless: Fruitless, gains: Mapping[tuple[str, str], float], market_round: int
) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the trials without a gain in a row, after those of a round.

    Parameters
    ----------
    fruitless
        Before the round.
    gains
        Buyer and seller -> lower bound of the gain on the fit split.
    market_round
        Number of the round.
    """
    after = dict(fruitless)
    for pair, gain in gains.items():
        if gain > 0:
            after.pop(pair, None)
        else:
            after[pair] = after.get(pair, (0, 0))[0] + 1, market_round
    return after


def _is_absent(known: tuple[int, int] | None, market_round: int) -> bool:
    """Return whether a seller is left out: for 0, 1, 3, 7, … rounds after trials without a gain."""
    if known is None:
        return False
    failures, last = known
    return market_round - last < min(1 << (failures - 1), LONGEST_ABSENCE)


def _pool(views: Mapping[str, View], buyer: str, sellers: Sequence[str], size: int) -> list[str]:
    """Return the sellers that know most of what the buyer values, together with it."""
    if len(sellers) <= size:
        return list(sellers)
    own = views[buyer]
    theirs = torch.stack([views[seller].accuracies for seller in sellers])
    together = torch.maximum(theirs, own.accuracies) @ own.weights
    best = together.sort(descending=True, stable=True).indices[:size]
    return [sellers[int(place)] for place in best]


def _expected_losses(views: Mapping[str, View], buyer: str, sellers: Sequence[str], targets: Tensor) -> list[float]:
    """Return the buyer's loss with its own outputs and each seller's together.

    A seller of another label space says nothing on classes that it does not know.
    """
    own = views[buyer]
    known = torch.isin(targets, torch.tensor(own.labels))
    mine, theirs = own.outputs[known], torch.zeros(len(sellers), int(known.sum()), len(own.labels))
    for place, seller in enumerate(sellers):
        other = views[seller]
        shared = [label for label in own.labels if label in other.labels]
        outputs = other.outputs[known][:, [other.labels.index(label) for label in shared]]
        outputs = outputs * torch.isin(targets[known], torch.tensor(shared, dtype=targets.dtype))[:, None]
        theirs[place][:, [own.labels.index(label) for label in shared]] = outputs
    numbers = torch.searchsorted(torch.tensor(own.labels), targets[known]).repeat(len(sellers))
    weights = own.weights[targets[known]]
    at_best = torch.full((len(sellers),), torch.inf)
    for warmth in WARMTHS:
        together = (warmth * (mine + theirs)).flatten(0, 1)
        losses = nn.functional.cross_entropy(together, numbers, reduction="none").view(len(sellers), -1)
        at_best = torch.minimum(at_best, losses @ weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny))
    found: list[float] = at_best.tolist()
    return found
