"""What the broker keeps of each buyer: its model's shape, and the loss and data that its purchases are judged by."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.gains import (
    ModelLoss,
    Profile,
    Purpose,
    check_validation,
    split_in_halves,
    weighted_purpose,
    with_labels,
)
from fl_market.hardware import CPU, Hardware
from fl_market.merging import NormStatistics, Repair, layer_of, layers_of, repair_for
from fl_market.parameters import StateDict


@dataclass(frozen=True)
class Buyer:
    """One agent as a buyer.

    Attributes
    ----------
    labels
        The classes that its model distinguishes; empty for all.
    template
        A state dict of its model's names, shapes and dtypes.
    purpose
        Loss and data that choose α and certify its gains.
    repair
        What mends merged models of its architecture, if anything has to.
    together
        Whether the grid of α is evaluated at once.
    """

    labels: tuple[int, ...]
    template: StateDict
    purpose: Purpose
    repair: Repair | NormStatistics | None
    together: bool

    @property
    def classes(self) -> int:
        """Number of classes that there are targets for."""
        return len(self.labels) or 1 + int(max(self.purpose.fit[1].max(), self.purpose.certify[1].max()))


class Buyers:
    """The buyers by name; whoever registered no profile has the common purpose.

    Parameters
    ----------
    build
        Makes the architecture for a number of classes, or for all of them with None.
    criterion
        Losses of (outputs, targets), one for each sample.
    fit, certify
        The broker's splits.
    repaired
        Whether merged models are mended.
    hardware
        Where models are evaluated.
    seed
        Splits buyers' own validation data.
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
        self._buyers: dict[str, Buyer] = {}
        self.profiles: dict[str, Profile] = {}
        self.common = self.of_labels(())

    def of(self, agent: str) -> Buyer:
        """Return an agent as a buyer."""
        return self._buyers.get(agent, self.common)

    def register(self, agent: str, profile: Profile) -> None:
        """Take in what an agent tells of its purpose, in place of what it told before.

        Raises
        ------
        MarketError
            If the labels are not some of the broker's, or weights or validation data do not fit the agent's model.
        """
        buyer = self.of_labels(profile.labels)
        purpose = buyer.purpose
        if profile.validation is not None:
            check_validation(profile.validation, self.common.purpose.fit, buyer.classes)
            fit, certify = split_in_halves(self._hardware.place(*profile.validation), self._seed)
            purpose = replace(purpose, fit=fit, certify=certify)
        if profile.class_weights:
            purpose = weighted_purpose(purpose, profile.class_weights, buyer.classes)
        self._buyers[agent] = replace(buyer, purpose=purpose)
        self.profiles[agent] = profile

    def shared_layers(self, first: str, second: str) -> tuple[str, ...]:
        """Return the layers that two agents can trade: all but the heads of those whose labels differ."""
        one, other = self.of(first), self.of(second)
        layers = layers_of(self.common.template)
        if one.labels == other.labels:
            return layers
        heads = {
            layer_of(name)
            for name, tensor in self.common.template.items()
            if not one.template[name].shape == other.template[name].shape == tensor.shape
        }
        return tuple(layer for layer in layers if layer not in heads)

    def of_labels(self, labels: tuple[int, ...]) -> Buyer:
        """Return a buyer of one set of labels that has no other purpose."""
        if labels not in self._by_labels:
            fit, certify = self._splits
            if labels:
                self._check_labels(labels)
                fit, certify = with_labels(fit, labels), with_labels(certify, labels)
            model = self._build(len(labels) or None).to(self._hardware.device)
            repair = repair_for(model, fit[0]) if self._repaired else None
            # measured: of the networks that are repaired, perceptrons alone gain from evaluating the grid of α together
            owners = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
            self._by_labels[labels] = Buyer(
                labels,
                {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()},
                Purpose(ModelLoss(model, self._criterion, hardware=self._hardware), fit, certify),
                repair,
                isinstance(repair, Repair) and all(isinstance(module, nn.Linear) for module in owners),
            )
        return self._by_labels[labels]

    def _check_labels(self, labels: tuple[int, ...]) -> None:
        classes = self.common.classes
        fits = len(labels) < classes and labels == tuple(sorted(set(labels))) and 0 <= labels[0] <= labels[-1] < classes
        if not fits:
            raise MarketError(
                f"a buyer's labels must be some of the classes 0 to {classes - 1}, in ascending order, not {labels}"
            )
        if any(int((split[1] == label).sum()) < 2 for split in self._splits for label in labels):
            raise MarketError(f"the broker has too little data of a buyer's labels {labels}")
