"""Alignment of two agents (paper, section 3.2): one permutation for both directions of trade."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fl_market.market.buyers import Buyer, Buyers
from fl_market.merging import layer_of
from fl_market.parameters import StateDict
from fl_market.permutation import Permutation, PermutationSpec, apply_permutation, invert
from fl_market.permutation.methods import AlignmentContext, AlignmentMethod
from fl_market.timing import timed


@dataclass(frozen=True)
class Alignment:
    """The alignment of a pair of agents.

    Attributes
    ----------
    spec
        The permutable units of the layers that both agents have.
    permutation
        The order that brings the second agent's units closest to the first's.
    """

    spec: PermutationSpec
    permutation: Permutation

    def to_first(self, second: StateDict) -> StateDict:
        """Return the second agent's parameters in the order of the first's units."""
        return apply_permutation(self.spec, self.permutation, second)

    def to_second(self, first: StateDict) -> StateDict:
        """Return the first agent's parameters in the order of the second's units."""
        return apply_permutation(self.spec, invert(self.spec, self.permutation), first)


class Aligner:
    """Aligns the agents of one market.

    Parameters
    ----------
    spec
        The permutable units of the common architecture.
    buyers
        The agents' architectures and the layers that two of them share.
    method
        Finds a permutation.
    seed
        Seed of the method.
    """

    def __init__(self, spec: PermutationSpec, buyers: Buyers, method: AlignmentMethod, seed: int) -> None:
        self._spec, self._buyers, self._method, self._seed = spec, buyers, method, seed

    def in_common(self, one: Buyer, other: Buyer) -> tuple[PermutationSpec, tuple[str, ...]]:
        """Return the permutable units and the tensor names of the layers that two agents share."""
        layers = self._buyers.shared_layers(one, other)
        tensors = tuple(name for name in one.template if layer_of(name) in layers)
        whole = len(tensors) == len(one.template)
        return (self._spec if whole else self._spec.restricted_to(tensors)), tensors

    @timed("alignment")
    def align(
        self,
        first: tuple[Buyer, StateDict],
        second: tuple[Buyer, StateDict],
        start: Permutation | None = None,
    ) -> Alignment:
        """Return the alignment of two agents.

        Parameters
        ----------
        first, second
            Each agent and its parameters.
        start
            Start of the search: the permutation of the last round.
        """
        (one, reference), (other, moved) = first, second
        spec, shared = self.in_common(one, other)
        same = one.labels == other.labels
        context = AlignmentContext(
            seed=self._seed,
            start=start,
            model=one.model if same else None,
            inputs=self._buyers.common.objective.fit[0],
        )
        found = self._method(spec, _part(reference, shared), _part(moved, shared), context)
        return Alignment(spec, found)


def _part(state: StateDict, tensors: tuple[str, ...]) -> Mapping[str, Tensor]:
    return {name: state[name] for name in tensors}
