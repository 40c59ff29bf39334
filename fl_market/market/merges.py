"""The broker's work on one model: the best merge with a seller, and steps on the fit split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from fl_market.errors import MarketError
from fl_market.gains import ModelLoss, Objective
from fl_market.hardware import Hardware
from fl_market.market.buyers import Buyer
from fl_market.market.fine_tuning import fine_tuned
from fl_market.market.terms import Terms
from fl_market.merging import (
    STRENGTHS,
    Alpha,
    Merge,
    MergeOnInputs,
    fit_weights,
    hold_out,
    layer_sizes,
    mean_alpha,
    predictions_of_both,
    shrunk,
    simplest_as_good,
)
from fl_market.parameters import StateDict
from fl_market.timing import timed


@dataclass(frozen=True)
class Merged:
    """A merge at its fitted weight.

    Attributes
    ----------
    alpha
        Purchased weight.
    state
        The merged model.
    loss
        Its mean loss on the fit split.
    """

    alpha: Alpha
    state: StateDict
    loss: float


@timed("fitting")
def best_merge(
    own: StateDict,
    bought: StateDict,
    buyer: Buyer,
    terms: Terms,
    *,
    towards: float | None = None,
    layers: tuple[str, ...] | None = None,
) -> Merged | None:
    """Return the better one of the plain and the repaired merge, each at its own weight.

    Parameters
    ----------
    own, bought
        The buyer's parameters, and those of the seller in the order of the buyer's units.
    buyer
        Objective and repair.
    terms
        Terms of the market.
    towards
        Share at which a patient choice of the weight aims; None for the least loss.
    layers
        The layers that are bought; None for all.

    Returns
    -------
    Merged or None
        None if no merge has a finite loss, as with absurd parameters, or nothing would be bought.
    """
    fit = partial(_fitted, own, bought, buyer=buyer, terms=terms, towards=towards)
    chosen: tuple[Merge, Merged] | None = None
    for merge in _merges(own, bought, buyer, terms):
        alpha = fit(merge, buyer.objective)
        if alpha is None:
            continue
        one = _merged(merge, alpha, buyer)
        if chosen is None or one.loss < chosen[1].loss:
            chosen = merge, one
    if chosen is None:
        return None
    merge, best = chosen
    if terms.granularity != "model" and not isinstance(terms.merge_method, MergeOnInputs):
        alphas = _fine(own, bought, merge, best.alpha, buyer, fit, terms)
        if not alphas:
            return None
        best = _merged(merge, _chosen(alphas, merge, buyer), buyer)
    return best if mean_alpha(best.alpha, own, layers) > 0 else None


def _fine(
    own: StateDict,
    bought: StateDict,
    merge: Merge,
    single: Alpha,
    buyer: Buyer,
    fit: Callable[..., Alpha | None],
    terms: Terms,
) -> list[Alpha]:
    """Return candidates for the weights of layers or rows, those that use labels least first."""
    objective, classifier = buyer.objective, buyer.objective.classifier
    by_labels = fit(merge, objective, terms.granularity)
    if by_labels is None or terms.selection == "greedy" or terms.layer_budget < 1 or not isinstance(single, float):
        return [] if by_labels is None else [by_labels]
    found: list[Alpha] = [single]
    if classifier is not None:
        matching = ModelLoss(classifier.model, nn.CrossEntropyLoss(reduction="none"), hardware=classifier.hardware)
        targets = predictions_of_both(classifier, own, bought, objective.fit[0])
        alpha = fit(merge, replace(objective, loss=matching, fit=targets), terms.granularity)
        found += [] if alpha is None else [alpha]
    assert not isinstance(by_labels, float)
    return [*found, *(shrunk(by_labels, single, strength) for strength in STRENGTHS)]


def _chosen(alphas: Sequence[Alpha], merge: Merge, buyer: Buyer) -> Alpha:
    """Return the first of some weights that is as good as the best on held-out data."""
    if len(alphas) == 1:
        return alphas[0]
    objective = buyer.objective
    _, held_out = hold_out(objective.fit)
    with torch.no_grad():
        return alphas[simplest_as_good([objective.loss(merge(alpha), held_out) for alpha in alphas])]


@timed("service")
def serve(state: StateDict, buyer: Buyer, terms: Terms, layers: tuple[str, ...]) -> StateDict | None:
    """Return a model after the broker's steps on some layers, if they gain on held-out samples.

    The steps are free of charge, with or without a seller. A purchase within a budget of parameters
    leaves the others as they are, and has no steps.

    Parameters
    ----------
    state, buyer
        Parameters, and the objective of the steps.
    terms
        Terms of the market.
    layers
        The layers that the steps change.
    """
    if terms.service != "tune" or terms.layer_budget < 1 or not terms.fit_steps or not layers:
        return None
    found = fine_tuned(
        state,
        buyer.objective,
        steps=terms.fit_steps,
        learning_rate=terms.tuning_learning_rate,
        batch_size=terms.fit_batch_size,
        layers=layers,
        hardware=Hardware(next(iter(state.values())).device),
    )
    return None if found is state else found


def _merges(own: StateDict, bought: StateDict, buyer: Buyer, terms: Terms) -> list[Merge]:
    """Return the merges of a buyer and a seller as functions of the purchased weight.

    A repair keeps a merged network as confident as the two models. If both are overconfident,
    because they know different classes, the merge without repair is better.
    """
    method = terms.merge_method
    if isinstance(method, MergeOnInputs):  # it has statistics of its own to keep
        return [method(own, bought, buyer.model, buyer.objective.fit[0])]
    plain: Merge = partial(method, own, bought)
    return [plain] if buyer.repair is None else [plain, buyer.repair.merging(own, bought, method)]


def _fitted(
    own: StateDict,
    bought: StateDict,
    merge: Merge,
    objective: Objective,
    granularity: str = "model",
    *,
    buyer: Buyer,
    terms: Terms,
    towards: float | None,
) -> Alpha | None:
    budget = int(terms.layer_budget * sum(layer_sizes(own).values())) if terms.layer_budget < 1 else None
    try:
        return fit_weights(
            own,
            bought,
            objective.loss,
            objective.fit,
            granularity,
            merge=merge,
            together=buyer.together and terms.merge == "interpolation",  # other methods need not support torch.vmap
            steps=terms.fit_steps,
            learning_rate=terms.fit_learning_rate,
            batch_size=terms.fit_batch_size,
            budget=budget,
            towards=towards,
            limit=terms.alpha_limit,
        )
    except MarketError:
        return None


def _merged(merge: Merge, alpha: Alpha, buyer: Buyer) -> Merged:
    objective = buyer.objective
    with torch.no_grad():
        state = merge(alpha)
        return Merged(alpha, state, float(objective.loss(state, objective.fit).mean()))
