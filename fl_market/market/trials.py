"""Try before purchase (paper, section 3.1): one possible purchase, merged and certified."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fl_market.data import Batch
from fl_market.gains import Certificate, Scores, SplitScores, certify, certify_increment, class_rises, harms
from fl_market.gains.certificate import OWN
from fl_market.market.buyers import Buyer
from fl_market.market.incumbents import BEST, Incumbent
from fl_market.market.merges import best_merge, serve
from fl_market.market.terms import Terms
from fl_market.merging import (
    ALL,
    Alpha,
    best_layers,
    hold_out,
    layer_of,
    layer_sizes,
    layers_of,
    mean_alpha,
    only_layers,
)
from fl_market.parameters import StateDict
from fl_market.timing import timed

EVEN = 0.5
"""Confidence of a bound that is the estimate itself."""


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
        The certified gain over the buyer's model and its merges with placebo sellers.
    merged
        The buyer's model after the purchase; empty for one that is not offered.
    after
        Sellers of the purchases before this incremental purchase; its gain is measured after
        theirs.
    progress
        The certificate of the gain that has a price: over the buyer's best certified model, and
        over what it could have free of charge. None where no gain is certified, and for gains as
        published, which have a price as they are.
    foreseen
        The certificate of the progress as the fit split shows it; None without a promise. It
        depends on nothing that the certify split shows, and says what an offer will tell.
    levels
        Accuracy on the fit split without the purchase, at best, and with it.
    promise
        Lower bound of the gain on the fit split, which decides what is delivered on approval:
        agents see many such decisions, and must not learn the certify split from them. Minus
        infinity where the merged model would do harm there.
    regress
        Whether the merged model is certified to be worse than the best one.
    """

    buyer: str
    seller: str
    layers: str
    alpha: float
    certificate: Certificate
    merged: StateDict = field(default_factory=dict)
    after: tuple[str, ...] = ()
    progress: Certificate | None = None
    foreseen: Certificate | None = None
    levels: tuple[float, float] = (0.0, 0.0)
    promise: float = -math.inf
    regress: bool = False

    @property
    def due(self) -> Certificate:
        """The certificate that counts for payment: progress is bought once."""
        return self.progress or self.certificate

    @property
    def priced(self) -> bool:
        """Whether both the gain and the progress are certified."""
        return self.certificate.positive and (self.progress is None or self.progress.lower_bound > 0)

    @property
    def on_approval(self) -> bool:
        """Whether the purchase has no price, and is promising."""
        return not self.priced and self.promise > 0

    @property
    def sellers(self) -> tuple[str, ...]:
        """The sellers of the bundle that ends with this purchase."""
        return (*self.after, self.seller)


def no_purchase(names: tuple[str, str], incumbent: Incumbent, terms: Terms) -> Trial:
    """Return the trial of a purchase without any gain."""
    certificate = certify(incumbent.losses, incumbent.losses, confidence=terms.confidence, kind=terms.gain)
    return Trial(*names, "", 0.0, certificate)


def evaluate_purchase(
    names: tuple[str, str],
    incumbent: Incumbent,
    aligned: StateDict,
    for_sale: Sequence[str],
    terms: Terms,
    error: float,
    *,
    share: float = 0.5,
) -> Trial:
    """Return the trial of one purchase.

    Parameters
    ----------
    names
        Buyer and seller.
    incumbent
        The buyer before the purchase.
    aligned
        The seller's parameters in the order of the buyer's units.
    for_sale
        Layers that the purchase may comprise.
    terms
        Terms of the market.
    error
        Probability of error of each of the two certificates.
    share
        An equal share of the seller among all models merged so far, for a patient choice of α.

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
    towards = share if terms.selection == "patient" else None
    found = best_merge(own, only_layers(own, aligned, layers), buyer, terms, towards=towards, layers=layers)
    if found is None:  # no finite loss, or no row gains anything
        return no_purchase(names, incumbent, terms)
    scores = None
    if terms.certificate == "published":
        certificate = _published_gain(found.state, incumbent, terms)
        promise = certificate.lower_bound if certificate.positive else -math.inf
    else:
        scores = buyer.objective.scores(found.state)
        certificate, promise = _gain(scores, incumbent, terms, error), _promise(scores, incumbent, terms)
    trial = Trial(
        *names,
        layers=_described(layers, found.alpha, own),
        alpha=mean_alpha(found.alpha, own, layers),
        certificate=certificate,
        merged=found.state,
        promise=promise,
    )
    if scores is None or (not certificate.positive and promise <= 0):
        return trial
    after = serve(found.state, buyer, terms, layers)
    if after is not None:
        trial, scores = replace(trial, merged=after), buyer.objective.scores(after)
    return _after_service(trial, scores, incumbent, terms, error)


def _published_gain(merged: StateDict, incumbent: Incumbent, terms: Terms) -> Certificate:
    objective = incumbent.buyer.objective
    with torch.no_grad():
        after = objective.loss(merged, objective.certify)
    return _certificate(incumbent.losses, after, objective.certify, terms)


@timed("certification")
def _gain(merged: SplitScores, incumbent: Incumbent, terms: Terms, error: float) -> Certificate:
    """Return the certificate of a merged model, before any service."""
    own, scores, certify = incumbent.alternatives[OWN].certify, merged.certify, incumbent.buyer.objective.certify
    return replace(
        _increment(incumbent.alternatives, merged, "certify", terms, error),
        harms=harms(own, scores, terms.tolerance, terms.confidence),
        harmed=_harmed(own.loss, scores.loss, certify, terms),
    )


@timed("certification")
def _promise(merged: SplitScores, incumbent: Incumbent, terms: Terms) -> float:
    """Return the lower bound of the gain on the fit split, before any service."""
    own, scores = incumbent.alternatives[OWN].fit, merged.fit
    if harms(own, scores, terms.tolerance, EVEN) or _harmed(
        own.loss, scores.loss, incumbent.buyer.objective.fit, terms
    ):
        return -math.inf
    before = {name: known.fit for name, known in incumbent.alternatives.items()}
    found = certify_increment(before, scores, kind=terms.gain, error=1 - terms.confidence, finite=False)
    return found.lower_bound


def _increment(
    alternatives: Mapping[str, SplitScores], merged: SplitScores, split: str, terms: Terms, error: float
) -> Certificate:
    """Return the increment over some alternatives, with the bounds of a market's certificate."""
    before: dict[str, Scores] = {name: getattr(known, split) for name, known in alternatives.items()}
    return certify_increment(
        before, getattr(merged, split), kind=terms.gain, error=error, finite=terms.certificate == "run"
    )


@timed("certification")
def _after_service(trial: Trial, merged: SplitScores, incumbent: Incumbent, terms: Terms, error: float) -> Trial:
    """Return a trial with the certificate of its progress, after the service on both sides."""
    progress = foreseen = None
    if trial.certificate.positive:
        progress = _increment(incumbent.priced, merged, "certify", terms, error)
    if trial.promise > 0:
        foreseen = _increment(incumbent.priced, merged, "fit", terms, error)
    # told to the buyer: of the fit split, as all that is not counted
    before = min(float(known.fit.error.mean()) for known in incumbent.priced.values())
    levels = 1 - before, 1 - float(merged.fit.error.mean())
    best = incumbent.priced.get(BEST)
    regress = (
        best is not None and certify(merged.certify.brier, best.certify.brier, confidence=terms.confidence).positive
    )
    return replace(trial, progress=progress, foreseen=foreseen, levels=levels, regress=regress)


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
        found = best_merge(own, only_layers(own, aligned, tuple(layers)), chooser, terms)
        if found is None:
            return -float("inf")
        with torch.no_grad():
            return _certificate(before, buyer.objective.loss(found.state, held_out), held_out, terms).lower_bound

    return gain


def _certificate(before: Tensor, after: Tensor, data: Batch, terms: Terms) -> Certificate:
    certificate = certify(before, after, confidence=terms.confidence, kind=terms.gain)
    return replace(certificate, harmed=_harmed(before, after, data, terms))


def _harmed(before: Tensor, after: Tensor, data: Batch, terms: Terms) -> tuple[int, ...]:
    """Return the classes whose loss may rise beyond the tolerance for classes, if there is one."""
    if not terms.class_tolerance:
        return ()
    rises = class_rises(before, after, data[1], confidence=terms.confidence)
    return tuple(number for number, rise in rises.items() if rise > terms.class_tolerance)


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
