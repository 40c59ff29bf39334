"""The broker's work on one model: the best merge with a seller, and steps on the fit split."""

from dataclasses import dataclass
from functools import partial

import torch

from fl_market.errors import MarketError
from fl_market.hardware import Hardware
from fl_market.market.buyers import Buyer
from fl_market.market.fine_tuning import fine_tune_if_certified
from fl_market.market.terms import Terms
from fl_market.merging import Alpha, Merge, fit_weights, layer_sizes, mean_alpha
from fl_market.parameters import StateDict


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
    found = [merged for merge in _merges(own, bought, buyer, terms) if (merged := fit(merge, "model")) is not None]
    if not found:
        return None
    merge, best = min(found, key=lambda entry: entry[1].loss)
    if terms.granularity != "model":
        entry = fit(merge, terms.granularity)
        if entry is None:
            return None
        best = entry[1]
    return best if mean_alpha(best.alpha, own, layers) > 0 else None


def serve(state: StateDict, buyer: Buyer, terms: Terms, layers: tuple[str, ...]) -> StateDict | None:
    """Return a model after the broker's steps on some layers, if their gain is certified.

    The steps are free of charge, with or without a seller. A purchase within a budget of parameters
    leaves the others as they are, and has no steps.

    Parameters
    ----------
    state, buyer
        Parameters, and the objective of the steps and of the gate.
    terms
        Terms of the market.
    layers
        The layers that the steps change.
    """
    if terms.service != "tune" or terms.layer_budget < 1 or not terms.fit_steps or not layers:
        return None
    found = fine_tune_if_certified(
        state,
        buyer.objective,
        steps=terms.fit_steps,
        learning_rate=terms.tuning_learning_rate,
        batch_size=terms.fit_batch_size,
        confidence=terms.confidence,
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
    plain: Merge = partial(method, own, bought)
    return [plain] if buyer.repair is None else [plain, buyer.repair.merging(own, bought, method)]


def _fitted(
    own: StateDict,
    bought: StateDict,
    merge: Merge,
    granularity: str,
    *,
    buyer: Buyer,
    terms: Terms,
    towards: float | None,
) -> tuple[Merge, Merged] | None:
    objective = buyer.objective
    budget = int(terms.layer_budget * sum(layer_sizes(own).values())) if terms.layer_budget < 1 else None
    try:
        alpha = fit_weights(
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
        )
    except MarketError:
        return None
    with torch.no_grad():
        state = merge(alpha)
        loss = float(objective.loss(state, objective.fit).mean())
    return merge, Merged(alpha, state, loss)
