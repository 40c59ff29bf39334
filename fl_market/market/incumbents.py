"""The buyer without a seller: all that a purchase must beat (beyond the paper, section 3.3).

The paper measures a gain against the buyer's model as it is. The merge then counts what the
broker's data and steps bring alone. Here the broker first does for the buyer all that it could do
without a seller, with the same freedoms; a purchase gains what its seller adds to that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fl_market.gains import SplitScores, certify
from fl_market.gains.certificate import OWN
from fl_market.market.buyers import Buyer
from fl_market.market.merges import Merged, best_merge, serve
from fl_market.market.placebos import placebos
from fl_market.market.terms import Terms
from fl_market.merging import only_layers
from fl_market.parameters import StateDict
from fl_market.seeds import reproducible

BEST = "best"


@dataclass(frozen=True)
class Incumbent:
    """A buyer before a purchase, with all that it could have without the seller.

    Attributes
    ----------
    buyer
        Objective and repair.
    state
        Parameters.
    losses
        Their losses on the buyer's certify split, shape (samples,).
    alternatives
        Name -> scores of the model as it is, and of its merges with placebo sellers: a merged model
        must beat them all. Empty if gains are as published, over the model as it is.
    priced
        Name -> scores of what the buyer could have free of charge: the model and its best merge
        with a placebo after the broker's service, and its best certified model. Only what a merged
        model gains over them has a price.
    service
        The model after the service, if that gains on held-out samples; else None.
    restored
        The best certified model, if the buyer's own is certified to be worse; else None.
    """

    buyer: Buyer
    state: StateDict
    losses: Tensor
    alternatives: Mapping[str, SplitScores] = field(default_factory=dict)
    priced: Mapping[str, SplitScores] = field(default_factory=dict)
    service: StateDict | None = None
    restored: StateDict | None = None


def incumbent_of(
    buyer: Buyer,
    state: StateDict,
    terms: Terms,
    *,
    aligned: Callable[[StateDict], StateDict],
    for_sale: tuple[str, ...],
    best: StateDict | None = None,
    seed: int = 0,
) -> Incumbent:
    """Return a buyer with its alternatives to a purchase.

    Parameters
    ----------
    buyer, state
        The buyer and its parameters.
    terms
        Terms of the market.
    aligned
        Brings a placebo's units into the order of the buyer's.
    for_sale
        Layers that purchases may comprise.
    best
        The buyer's best certified model, if it has one.
    seed
        Decides the placebos.
    """
    objective = buyer.objective
    with torch.no_grad():
        losses = objective.loss(state, objective.certify)
    if terms.certificate == "published":
        return Incumbent(buyer, state, losses)
    alternatives = {OWN: objective.scores(state)}
    strongest: tuple[str, Merged] | None = None
    with reproducible(seed, "placebos"):  # one after the other: each takes as much memory as a model
        for name, seller in placebos(buyer.model, state):
            seller = only_layers(state, aligned(seller), for_sale)  # noqa: PLW2901 - one of them is enough
            found = best_merge(state, seller, buyer, terms, layers=for_sale)
            if found is not None:
                alternatives[name] = objective.scores(found.state)
                if strongest is None or found.loss < strongest[1].loss:
                    strongest = name, found
    service = serve(state, buyer, terms, for_sale)
    priced = {OWN: alternatives[OWN] if service is None else objective.scores(service)}
    if strongest is not None:
        name, merge = strongest
        after = serve(merge.state, buyer, terms, for_sale)
        priced[name] = alternatives[name] if after is None else objective.scores(after)
    restored = None
    if best is not None:
        priced[BEST] = objective.scores(best)
        own = priced[OWN].certify.brier
        if certify(own, priced[BEST].certify.brier, confidence=terms.confidence).positive:
            restored = best
    return Incumbent(buyer, state, losses, alternatives, priced, service, restored)
