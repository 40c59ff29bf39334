"""The buyers: model architecture, objective and repair of merged models for each profile."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from fl_market.data import Batch, with_labels
from fl_market.errors import MarketError
from fl_market.gains import (
    ModelLoss,
    Objective,
    Profile,
    check_validation,
    split_in_halves,
    weighted_objective,
)
from fl_market.hardware import CPU, Hardware
from fl_market.merging import NormStatistics, Repair, interpolate, layer_of, layers_of, repair_for
from fl_market.parameters import StateDict

TOGETHER = 2**20
"""Parameters of the largest model of which all merges of the grid are evaluated at once."""


@dataclass(frozen=True)
class Buyer:
    """One agent as a buyer.

    Attributes
    ----------
    labels
        Label space of its model; empty for all classes.
    model
        The architecture; its parameters have no effect.
    template
        A state dict with the names, shapes and dtypes of its model.
    objective
        Loss and data that select α and certify gains.
    repair
        Repair of merged models of its architecture; None if none is needed.
    together
        Whether the whole grid of α is evaluated in one call.
    """

    labels: tuple[int, ...]
    model: nn.Module
    template: StateDict
    objective: Objective
    repair: Repair | NormStatistics | None
    together: bool

    def merged(self, own: StateDict, other: StateDict, alpha: float) -> StateDict:
        """Return the merge of two aligned models, repaired where the architecture needs it."""
        return interpolate(own, other, alpha) if self.repair is None else self.repair.merging(own, other)(alpha)

    @property
    def classes(self) -> int:
        """Number of classes among the targets."""
        return len(self.labels) or 1 + int(max(self.objective.fit[1].max(), self.objective.certify[1].max()))


class Buyers:
    """The buyers by profile; an agent without one has the common objective.

    Parameters
    ----------
    build
        Makes the architecture for a number of classes, or for all classes with None.
    criterion
        Losses of (outputs, targets), one for each sample.
    fit, certify
        The broker's splits.
    repaired
        Whether merged models are repaired.
    hardware
        Device and precision of evaluations.
    seed
        Seed of the split of the buyers' own validation data.
    """

    def __init__(
        self,
        build: Callable[[int | None], nn.Module],
        criterion: nn.Module,
        fit: Batch,
        certify: Batch,
        *,
        repaired: bool,
        hardware: Hardware = CPU,
        seed: int = 0,
    ) -> None:
        self._build, self._criterion, self._seed = build, criterion, seed
        self._repaired, self._hardware = repaired, hardware
        self._splits = hardware.place(*fit), hardware.place(*certify)
        self._by_labels: dict[tuple[int, ...], Buyer] = {}
        self._by_profile: dict[int, tuple[Profile, Buyer]] = {}
        self.common = self.of_labels(())

    def of(self, profile: Profile | None) -> Buyer:
        """Return the buyer with a profile; without one, the buyer with the common objective.

        Raises
        ------
        MarketError
            If the labels are not a subset of the broker's classes, or weights or validation data do
            not fit the agent's model.
        """
        if profile is None:
            return self.common
        if id(profile) not in self._by_profile:  # profiles hold tensors, and cannot be hashed
            self._by_profile[id(profile)] = profile, self._made(profile)
        return self._by_profile[id(profile)][1]

    def of_labels(self, labels: tuple[int, ...]) -> Buyer:
        """Return the buyer with one label space and the common weights and data.

        Raises
        ------
        MarketError
            If the labels are not a subset of the broker's classes.
        """
        if labels not in self._by_labels:
            fit, certify = self._splits
            if labels:
                self._check_labels(labels)
                fit, certify = with_labels(fit, labels), with_labels(certify, labels)
            model = self._build(len(labels) or None).to(self._hardware.device)
            repair = repair_for(model, fit[0]) if self._repaired else None
            # measured: of the repaired networks, one call for the grid speeds up only perceptrons
            owners = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
            loss = ModelLoss(model, self._criterion, hardware=self._hardware)
            self._by_labels[labels] = Buyer(
                labels,
                model,
                {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()},
                Objective(loss, fit, certify, classifier=loss),
                repair,
                isinstance(repair, Repair)
                and all(isinstance(module, nn.Linear) for module in owners)
                and sum(parameter.numel() for parameter in model.parameters()) <= TOGETHER,
            )
        return self._by_labels[labels]

    def shared_layers(self, one: Buyer, other: Buyer) -> tuple[str, ...]:
        """Return the tradable layers of two agents: all but the heads of different label spaces."""
        layers = layers_of(self.common.template)
        if one.labels == other.labels:
            return layers
        heads = {
            layer_of(name)
            for name, tensor in self.common.template.items()
            if not one.template[name].shape == other.template[name].shape == tensor.shape
        }
        return tuple(layer for layer in layers if layer not in heads)

    def _made(self, profile: Profile) -> Buyer:
        buyer = self.of_labels(profile.labels)
        objective = buyer.objective
        if profile.validation is not None:
            check_validation(profile.validation, self.common.objective.fit, buyer.classes)
            fit, certify = split_in_halves(self._hardware.place(*profile.validation), self._seed)
            objective = replace(objective, fit=fit, certify=certify)
        if profile.class_weights:
            objective = weighted_objective(objective, profile.class_weights, buyer.classes)
        return replace(buyer, objective=objective)

    def _check_labels(self, labels: tuple[int, ...]) -> None:
        classes = self.common.classes
        fits = len(labels) < classes and labels == tuple(sorted(set(labels))) and 0 <= labels[0] <= labels[-1] < classes
        if not fits:
            raise MarketError(
                f"a buyer's labels must be some of the classes 0 to {classes - 1}, in ascending order; got {labels}"
            )
        if any(int((split[1] == label).sum()) < 2 for split in self._splits for label in labels):
            raise MarketError(f"the broker has too little data of a buyer's labels {labels}")
