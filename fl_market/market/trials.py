"""Try before purchase (paper, section 3.1): one possible purchase, merged and certified."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.gains import Certificate, Objective, certify, class_rises
from fl_market.market.buyers import Buyer
from fl_market.market.terms import Terms
from fl_market.merging import (
    ALL,
    Alpha,
    Merge,
    best_layers,
    fit_weights,
    hold_out,
    layer_of,
    layer_sizes,
    layers_of,
    mean_alpha,
    only_layers,
)
from fl_market.parameters import StateDict


@dataclass(frozen=True)
class Trial:
    """One purchase that the broker tried.

    Attributes
    ----------
    buyer, seller
        Names of the agents.
    layers
        The partial purchase: ``"all"``, names of layers separated by commas, or empty.
    alpha
        Purchased weight, averaged over the purchased parameters.
    certificate
        The certified gain.
    merged
        The buyer's model after the purchase.
    after
        Sellers of the purchases before this incremental purchase; its gain is measured after
        theirs.
    """

    buyer: str
    seller: str
    layers: str
    alpha: float
    certificate: Certificate
    merged: StateDict
    after: tuple[str, ...] = ()

    @property
    def sellers(self) -> tuple[str, ...]:
        """The sellers of the bundle that ends with this purchase."""
        return (*self.after, self.seller)


@dataclass(frozen=True)
class Incumbent:
    """A buyer's model before a purchase, the reference of the gain.

    Attributes
    ----------
    buyer
        Objective and repair.
    state
        Parameters.
    losses
        Their losses on the buyer's certify split, shape (samples,).
    """

    buyer: Buyer
    state: StateDict
    losses: Tensor

    @classmethod
    def of(cls, buyer: Buyer, state: StateDict) -> "Incumbent":
        """Return the incumbent of a buyer with the given parameters."""
        return cls(buyer, state, certified_losses(buyer.objective, state))


def no_purchase(names: tuple[str, str], incumbent: Incumbent, terms: Terms) -> Trial:
    """Return the trial of a purchase without any gain."""
    certificate = certify(incumbent.losses, incumbent.losses, confidence=terms.confidence, kind=terms.gain)
    return Trial(*names, "", 0.0, certificate, incumbent.state)


def evaluate_purchase(
    names: tuple[str, str], incumbent: Incumbent, aligned: StateDict, for_sale: Sequence[str], terms: Terms
) -> Trial:
    """Return the trial of one purchase.

    Parameters
    ----------
    names
        Buyer and seller.
    incumbent
        The buyer's model before the purchase.
    aligned
        The seller's parameters in the order of the buyer's units.
    for_sale
        Layers that the purchase may comprise.
    terms
        Terms of the market.

    Notes
    -----
    A seller with finite but absurd parameters gives no merged model with a finite loss. The result
    is then a trial without a gain.
    """
    own, buyer = incumbent.state, incumbent.buyer
    by_row = terms.granularity == "row"
    layers = tuple(for_sale) if by_row else _layers_within_budget(incumbent, aligned, for_sale, terms)
    if not layers:
        return no_purchase(names, incumbent, terms)
    bought = only_layers(own, aligned, layers)
    merge = _merging(own, bought, buyer, terms)
    try:
        alpha = _fitted(own, bought, merge, buyer, terms.granularity, terms)
        if mean_alpha(alpha, own, layers) == 0:  # no row gains anything
            return no_purchase(names, incumbent, terms)
    except MarketError:
        return no_purchase(names, incumbent, terms)
    with torch.no_grad():
        merged = merge(alpha)
    after = certified_losses(buyer.objective, merged)
    certificate = _certificate(incumbent.losses, after, buyer.objective.certify, terms)
    return Trial(*names, _described(layers, alpha, own), mean_alpha(alpha, own, layers), certificate, merged)


def highest_lower_bound(trials: Iterable[Trial]) -> Trial | None:
    """Return the certified trial with the highest lower bound of its gain, or None."""
    certified = [trial for trial in trials if trial.certificate.positive]
    return max(certified, key=lambda trial: (trial.certificate.lower_bound, trial.seller), default=None)


def certified_losses(objective: Objective, state: StateDict) -> Tensor:
    """Return the losses of a model on the certify split, shape (samples,)."""
    with torch.no_grad():
        return objective.loss(state, objective.certify)


def _fitted(own: StateDict, bought: StateDict, merge: Merge, buyer: Buyer, granularity: str, terms: Terms) -> Alpha:
    return fit_weights(
        own,
        bought,
        buyer.objective.loss,
        buyer.objective.fit,
        granularity,
        merge=merge,
        together=buyer.together and terms.merge == "interpolation",  # other methods need not support torch.vmap
        steps=terms.fit_steps,
        learning_rate=terms.fit_learning_rate,
        batch_size=terms.fit_batch_size,
        budget=_budget(own, terms) if terms.layer_budget < 1 else None,
    )


def _budget(own: StateDict, terms: Terms) -> int:
    return int(terms.layer_budget * sum(layer_sizes(own).values()))


def _layers_within_budget(
    incumbent: Incumbent, aligned: StateDict, for_sale: Sequence[str], terms: Terms
) -> tuple[str, ...]:
    """Return the layers of a purchase: all layers for sale or, within a budget, the best of them.

    A set of layers is judged by the lower bound of its gain on the held-out part of the fit split.
    """
    if terms.layer_budget >= 1 or not for_sale:
        return tuple(for_sale)
    own, buyer = incumbent.state, incumbent.buyer
    sizes = layer_sizes(own)
    gain = _gain_of_layers(own, aligned, buyer, terms)
    best, _ = best_layers(_budget(own, terms), {layer: sizes[layer] for layer in for_sale}, gain)
    return tuple(layer for layer in for_sale if layer in best)


def _gain_of_layers(
    own: StateDict, aligned: StateDict, buyer: Buyer, terms: Terms
) -> Callable[[frozenset[str]], float]:
    chosen, held_out = hold_out(buyer.objective.fit)
    chooser = replace(buyer, objective=replace(buyer.objective, fit=chosen))
    with torch.no_grad():
        before = buyer.objective.loss(own, held_out)

    def gain(layers: frozenset[str]) -> float:
        bought = only_layers(own, aligned, tuple(layers))
        merge = _merging(own, bought, buyer, terms)
        try:
            alpha = _fitted(own, bought, merge, chooser, "model", terms)
        except MarketError:
            return -float("inf")
        with torch.no_grad():
            return _certificate(before, buyer.objective.loss(merge(alpha), held_out), held_out, terms).lower_bound

    return gain


def _certificate(before: Tensor, after: Tensor, data: Batch, terms: Terms) -> Certificate:
    certificate = certify(before, after, confidence=terms.confidence, kind=terms.gain)
    if not terms.class_tolerance:
        return certificate
    rises = class_rises(before, after, data[1], confidence=terms.confidence)
    return replace(certificate, harmed=tuple(c for c, rise in rises.items() if rise > terms.class_tolerance))


def _merging(own: StateDict, aligned: StateDict, buyer: Buyer, terms: Terms) -> Merge:
    """Return the merge of a buyer and a seller as a function of the purchased weight.

    A repair keeps a merged network as confident as the two models. If both are overconfident,
    because they know different classes, the merge without repair is better. The fit split decides
    at the midpoint, where the two merges differ most.
    """
    method = terms.merge_method

    def plain(alpha: Alpha) -> StateDict:
        return method(own, aligned, alpha)

    if buyer.repair is None:
        return plain
    repaired = buyer.repair.merging(own, aligned, method)
    with torch.no_grad():
        losses = [float(buyer.objective.loss(merge(0.5), buyer.objective.fit).mean()) for merge in (plain, repaired)]
    return repaired if losses[1] < losses[0] else plain


def _described(layers: Sequence[str], alpha: Alpha, own: StateDict) -> str:
    """Return a purchase as text: all, or layer names, with row counts for incomplete layers."""
    parts, whole = [], len(layers) == len(layers_of(own))
    for layer in layers:
        weights = [w for name, w in alpha.items() if layer_of(name) == layer] if isinstance(alpha, Mapping) else []
        rows = max((weight.flatten() for weight in weights), key=len, default=torch.ones(1))
        bought = int((rows > 0).sum())
        whole = whole and bought == len(rows)
        if bought:
            parts.append(layer if bought == len(rows) else f"{layer}[{bought} of {len(rows)}]")
    return ALL if whole else ",".join(parts)
