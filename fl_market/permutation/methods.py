"""Alignment methods: how a seller's units are brought into the buyer's order.

A method is one function of the type ``AlignmentMethod``.
:func:`fl_market.permutation.testing.check_alignment_method` tests one of your own before a market
uses it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from fl_market.gains.losses import batch_size_for
from fl_market.parameters import StateDict
from fl_market.permutation.matching import match_observed, match_weights
from fl_market.permutation.spec import Permutation, PermutationSpec, identity_permutation


@dataclass(frozen=True)
class AlignmentContext:
    """Everything a market knows beside the two models; a method uses as much of it as it needs.

    Attributes
    ----------
    seed
        Decides all random choices of a method.
    start
        The permutation that was found in the last round, or None in the first one.
    model
        An architecture into which both states can be loaded. None where the two agents'
        architectures differ in part, so that only weights can be matched. A method must not change
        it.
    inputs
        Unlabelled inputs of the model, shape (samples, …), or None with ``model``.
    """

    seed: int = 0
    start: Permutation | None = None
    model: nn.Module | None = None
    inputs: Tensor | None = None


AlignmentMethod = Callable[[PermutationSpec, StateDict, StateDict, AlignmentContext], Permutation]
"""(spec, reference, other, context) -> the permutation of ``other`` that fits ``reference``."""


def align_weights(
    spec: PermutationSpec, reference: StateDict, other: StateDict, context: AlignmentContext
) -> Permutation:
    """Return the permutation with the greatest inner product of the parameters."""
    return match_weights(spec, reference, other, seed=context.seed, start=context.start)


def align_activations(
    spec: PermutationSpec, reference: StateDict, other: StateDict, context: AlignmentContext
) -> Permutation:
    """Return the permutation with the greatest correlation of activations on the context's inputs.

    Without a model or inputs, it is the permutation that :func:`align_weights` returns.
    """
    model, inputs = context.model, context.inputs
    if model is None or inputs is None:
        return align_weights(spec, reference, other, context)
    states = [{name: tensor.to(inputs.device) for name, tensor in state.items()} for state in (reference, other)]
    batches = inputs.split(batch_size_for(model, inputs))  # type: ignore[no-untyped-call]
    return match_observed(spec, model, states[0], states[1], batches, seed=context.seed)


def keep_order(spec: PermutationSpec, reference: StateDict, other: StateDict, context: AlignmentContext) -> Permutation:
    """Return the identity: no alignment."""
    return identity_permutation(spec)


ALIGNMENT_METHODS: dict[str, AlignmentMethod] = {
    "weights": align_weights,
    "activations": align_activations,
    "none": keep_order,
}
"""The methods that a market's option names."""
