"""Permutation specs: the units of a model that may be permuted without changing its function.

A *group* is a set of exchangeable units: the hidden neurons of a layer, the channels of a residual
stream. Each unit owns some positions on axes of some tensors: the row of one weight, the column of
the next, an entry of a bias or of a norm's running mean. A permutation of the units permutes all of
those positions alike.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_market.errors import MarketError
from fl_market.parameters import StateDict, copied, state_of
from fl_market.seeds import numpy_generator

Permutation = Mapping[str, NDArray[np.int64]]
"""For each group: unit ``i`` of the result is unit ``permutation[group][i]`` of the permuted model.

Groups inside heads come first: their orders are those of the heads before these are permuted as
wholes.
"""


@dataclass(frozen=True)
class AxisUse:
    """The positions of a group's units on one axis of one tensor.

    Attributes
    ----------
    tensor
        Name in the state dict.
    axis
        Axis of that tensor.
    positions
        Integer array (units, slots): unit ``i`` owns the positions ``positions[i]`` of the axis.
        One slot is the plain case; a linear layer behind ``flatten`` has one slot for each pixel of
        its channel.
    rows
        First and last (exclusive) row of the tensor that the use is restricted to: a group of a
        convolution.
    """

    tensor: str
    axis: int
    positions: NDArray[np.int64]
    rows: tuple[int, int] | None = None

    def index(self, order: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        """Return the position that moves to each place of the axis, for an order of the units."""
        index = np.arange(size)
        index[self.positions] = self.positions[order]
        return index

    def reordered(self, tensor: Tensor, order: NDArray[np.int64]) -> Tensor:
        """Return the tensor with its units reordered on this axis."""
        index = torch.from_numpy(self.index(order, tensor.shape[self.axis])).to(tensor.device)
        if self.rows is None:
            return tensor.index_select(self.axis, index)
        first, last = self.rows
        return torch.cat([tensor[:first], tensor[first:last].index_select(self.axis, index), tensor[last:]])


@dataclass(frozen=True)
class Inside:
    """The place of a group inside one unit of a group of heads.

    Attributes
    ----------
    heads
        Name of the group whose units are the heads.
    part
        Number of one of the sets of units that each head has: those of queries and keys, or those
        of values.
    head
        Number of the head.
    """

    heads: str
    part: int
    head: int


@dataclass(frozen=True)
class Group:
    """A set of exchangeable units and every axis on which they appear.

    Attributes
    ----------
    size
        Number of units.
    uses
        The axes that one permutation of the units permutes together.
    inside
        The unit of another group that holds these units, as an attention head does.
    """

    size: int
    uses: tuple[AxisUse, ...]
    inside: "Inside | None" = None

    @property
    def axes(self) -> tuple[tuple[str, int], ...]:
        """The ``(tensor name, axis)`` pairs of this group."""
        return tuple((use.tensor, use.axis) for use in self.uses)


@dataclass(frozen=True)
class PermutationSpec:
    """All that may be permuted in one architecture.

    Attributes
    ----------
    groups
        Name of the tensor that produces the units -> the group.
    frozen
        ``(tensor name, axis)`` -> the reason why that axis, or a part of it, may not be permuted.
    buffers
        Tensors that are no parameters, as BatchNorm's running statistics: permuted, but not
        matched.
    """

    groups: Mapping[str, Group]
    frozen: Mapping[tuple[str, int], str] = field(default_factory=dict)
    buffers: frozenset[str] = frozenset()

    def of_parameters(self) -> "PermutationSpec":
        """Return the same groups as far as they live on parameters."""
        return PermutationSpec(self._used_on(lambda tensor: tensor not in self.buffers), self.frozen)

    def restricted_to(self, tensors: Collection[str]) -> "PermutationSpec":
        """Return the same groups as far as they live on some tensors that two models share.

        Such a permutation leaves the function of a model unchanged only together with the tensors
        that are left out.
        """
        return PermutationSpec(self._used_on(set(tensors).__contains__), self.frozen, self.buffers)

    def _used_on(self, wanted: Callable[[str], bool]) -> dict[str, Group]:
        return {
            name: replace(group, uses=tuple(use for use in group.uses if wanted(use.tensor)))
            for name, group in self.groups.items()
        }

    def twin(self, name: str, head: int) -> str:
        """Return the group of another head that corresponds to the named group of its own head."""
        inside = self.groups[name].inside
        if inside is None:
            return name
        wanted = Inside(inside.heads, inside.part, head)
        return next(other for other, group in self.groups.items() if group.inside == wanted)

    def describe(self) -> str:
        """Return a table of the groups, and of the frozen axes with the reasons."""
        lines = [f"{len(self.groups)} permutable groups"]
        for name, group in self.groups.items():
            uses = ", ".join(f"{tensor}[{axis}]" for tensor, axis in group.axes)
            lines.append(f"  {name}: {group.size} units on {uses}")
        lines.append(f"{len(self.frozen)} frozen axes")
        lines.extend(f"  {tensor}[{axis}]: {reason}" for (tensor, axis), reason in self.frozen.items())
        return "\n".join(lines)


def apply_permutation(
    spec: PermutationSpec, permutation: Permutation, model: nn.Module | StateDict
) -> dict[str, Tensor]:
    """Return ``model``'s parameters with the units of every group reordered.

    Parameters
    ----------
    spec
        The model's permutation spec.
    permutation
        For each group the order of its units, as ``match`` or ``random_permutation`` return it.
    model
        A module or its state dict.

    Returns
    -------
    dict
        A new state dict; the function that it computes is that of ``model``.

    Raises
    ------
    MarketError
        If the permutation is not one of this spec's units.
    """
    state = copied(state_of(model))
    check_permutation(spec, permutation)
    for name, group in spec.groups.items():
        order = permutation[name]
        if np.array_equal(order, np.arange(group.size)):
            continue
        for use in group.uses:
            state[use.tensor] = use.reordered(state[use.tensor], order)
    return state


def check_permutation(spec: PermutationSpec, permutation: Permutation) -> None:
    """Raise MarketError unless ``permutation`` holds an order of all units of each group."""
    for name, group in spec.groups.items():
        if name not in permutation:
            raise MarketError(f"the permutation lacks the group {name!r}; the spec has {', '.join(spec.groups)}")
        if not np.array_equal(np.sort(permutation[name]), np.arange(group.size)):
            raise MarketError(f"the order given for the group {name!r} is not a permutation of its {group.size} units")


def identity_permutation(spec: PermutationSpec) -> dict[str, NDArray[np.int64]]:
    """Return the permutation that changes nothing."""
    return {name: np.arange(group.size) for name, group in spec.groups.items()}


def random_permutation(spec: PermutationSpec, seed: int = 0) -> dict[str, NDArray[np.int64]]:
    """Return a uniformly random permutation of each group, in the form that ``match`` returns."""
    generator = numpy_generator(seed, "random-permutation")
    return {name: generator.permutation(group.size) for name, group in spec.groups.items()}


def invert(spec: PermutationSpec, permutation: Permutation) -> dict[str, NDArray[np.int64]]:
    """Return the permutation that undoes this one: the match in the other direction."""
    inverse = {name: np.argsort(order) for name, order in permutation.items()}
    for name, group in spec.groups.items():
        if group.inside is not None:
            # the head that is here now came from another place, and brought the order of its units
            origin = int(permutation[group.inside.heads][group.inside.head])
            inverse[name] = np.argsort(permutation[spec.twin(name, origin)])
    return inverse
