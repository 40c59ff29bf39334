"""Try before purchase (paper, section 3.1): one possible purchase, merged and certified before anybody pays."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.gains import Certificate, Purpose, certify, class_rises
from fl_market.market.objectives import Buyer
from fl_market.market.terms import Terms
from fl_market.merging import (
    ALL,
    Alpha,
    Merge,
    best_layers,
    fit_weights,
    hold_out,
    interpolate,
    layer_of,
    layer_sizes,
    layers_of,
    mean_alpha,
    only_layers,
)
from fl_market.parameters import StateDict


@dataclass(frozen=True)
class Trial:
    """One purchase that the broker tried: the model before it and the merged one, and what was certified of it.

    ``after`` names the sellers whose purchases this one comes on top of: its gain is what it adds to them.
    """

    buyer: str
    seller: str
    layers: str
    alpha: float
    certificate: Certificate
    before: StateDict
    merged: StateDict
    after: tuple[str, ...] = ()


class Showroom:
    """Where purchases are tried.

    Parameters
    ----------
    terms
        How to merge and certify.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms

    def nothing(self, names: tuple[str, str], own: StateDict, own_losses: Tensor) -> Trial:
        """Return the trial of a purchase in which there is nothing to gain."""
        certificate = certify(own_losses, own_losses, confidence=self.terms.confidence, kind=self.terms.gain)
        return Trial(*names, "", 0.0, certificate, own, own)

    def try_out(
        self,
        names: tuple[str, str],
        buyer: Buyer,
        own: StateDict,
        aligned: StateDict,
        own_losses: Tensor,
        for_sale: Sequence[str],
    ) -> Trial:
        """Return the trial of one purchase.

        Parameters
        ----------
        names
            Of the buyer and of the seller.
        buyer
            The buyer's purpose.
        own, aligned
            The buyer's parameters, and the seller's in the order of the buyer's units.
        own_losses
            The buyer's losses on its certify split.
        for_sale
            Layers that the purchase may comprise.
        """
        nothing = self.nothing(names, own, own_losses)
        by_row = self.terms.granularity == "row"
        layers = tuple(for_sale) if by_row else self._goods(own, aligned, buyer, for_sale)
        if not layers:
            return nothing
        bought = only_layers(own, aligned, layers)
        merge = self._merging(own, bought, buyer)
        try:
            alpha = self._fit_weights(own, bought, merge, buyer, self.terms.granularity)
            if mean_alpha(alpha, own, layers) == 0:  # no row gains anything
                return nothing
        except MarketError:
            # a seller whose parameters are finite but absurd: no merged model has a finite loss, so nothing is for sale
            return nothing
        with torch.no_grad():
            merged = merge(alpha)
        certificate = self._certificate(own_losses, certified_losses(buyer.purpose, merged), buyer.purpose.certify)
        return Trial(*names, _described(layers, alpha, own), mean_alpha(alpha, own, layers), certificate, own, merged)

    def _fit_weights(self, own: StateDict, bought: StateDict, merge: Merge, buyer: Buyer, granularity: str) -> Alpha:
        return fit_weights(
            own,
            bought,
            buyer.purpose.loss,
            buyer.purpose.fit,
            granularity,
            merge=merge,
            together=buyer.together,
            steps=self.terms.fit_steps,
            learning_rate=self.terms.fit_learning_rate,
            batch_size=self.terms.fit_batch_size,
            budget=self._budget(own) if self.terms.layer_budget < 1 else None,
        )

    def _budget(self, own: StateDict) -> int:
        return int(self.terms.layer_budget * sum(layer_sizes(own).values()))

    def _goods(self, own: StateDict, aligned: StateDict, buyer: Buyer, for_sale: Sequence[str]) -> tuple[str, ...]:
        """Return the layers that a purchase comprises: those for sale or, within a budget, the best among these.

        A set of layers is judged by the lower bound of its gain on the held-out part of the fit split.
        """
        if self.terms.layer_budget >= 1 or not for_sale:
            return tuple(for_sale)
        chosen, held_out = hold_out(buyer.purpose.fit)
        chooser = replace(buyer, purpose=replace(buyer.purpose, fit=chosen))
        with torch.no_grad():
            before = buyer.purpose.loss(own, held_out)

        def gain(layers: frozenset[str]) -> float:
            bought = only_layers(own, aligned, tuple(layers))
            merge = self._merging(own, bought, buyer)
            try:
                alpha = self._fit_weights(own, bought, merge, chooser, "model")
            except MarketError:
                return -float("inf")
            with torch.no_grad():
                return self._certificate(before, buyer.purpose.loss(merge(alpha), held_out), held_out).lower_bound

        sizes = layer_sizes(own)
        best, _ = best_layers(self._budget(own), {layer: sizes[layer] for layer in for_sale}, gain)
        return tuple(layer for layer in for_sale if layer in best)

    def _certificate(self, before: Tensor, after: Tensor, data: Batch) -> Certificate:
        certificate = certify(before, after, confidence=self.terms.confidence, kind=self.terms.gain)
        if not self.terms.class_tolerance:
            return certificate
        rises = class_rises(before, after, data[1], confidence=self.terms.confidence)
        return replace(certificate, harmed=tuple(c for c, rise in rises.items() if rise > self.terms.class_tolerance))

    def _merging(self, own: StateDict, aligned: StateDict, buyer: Buyer) -> Merge:
        """Return how these two are merged for a given purchased weight.

        A repair keeps a merged network as sure of itself as its two ends are. Where both are wrongly sure (they know
        different classes), the plain interpolation is better: the fit split decides, at the midpoint, where the two
        differ most.
        """

        def plain(alpha: Alpha) -> StateDict:
            return interpolate(own, aligned, alpha)

        if buyer.repair is None:
            return plain
        repaired = buyer.repair.merging(own, aligned)
        with torch.no_grad():
            losses = [float(buyer.purpose.loss(merge(0.5), buyer.purpose.fit).mean()) for merge in (plain, repaired)]
        return repaired if losses[1] < losses[0] else plain


def _described(layers: Sequence[str], alpha: Alpha, own: StateDict) -> str:
    """Return what was bought: all, names of layers, or, where rows are left out, how many of each layer's."""
    goods, whole = [], len(layers) == len(layers_of(own))
    for layer in layers:
        weights = [w for name, w in alpha.items() if layer_of(name) == layer] if isinstance(alpha, Mapping) else []
        rows = max((weight.flatten() for weight in weights), key=len, default=torch.ones(1))
        bought = int((rows > 0).sum())
        whole = whole and bought == len(rows)
        if bought:
            goods.append(layer if bought == len(rows) else f"{layer}[{bought} of {len(rows)}]")
    return ALL if whole else ",".join(goods)


def surest(trials: Iterable[Trial]) -> Trial | None:
    """Return the trial with the greatest lower bound of its gain, or None where none is certified."""
    certified = [trial for trial in trials if trial.certificate.positive]
    return max(certified, key=lambda trial: (trial.certificate.lower_bound, trial.seller), default=None)


def certified_losses(purpose: Purpose, state: StateDict) -> Tensor:
    """Return the losses of a model on the certify split."""
    with torch.no_grad():
        return purpose.loss(state, purpose.certify)
