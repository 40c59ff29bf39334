r"""Merge linear layers by their inputs: the regression mean (*RegMean*, Jin et al. 2023).

The merged layer is to answer as each of the two models does, on the inputs that the layer has in
that model. With the inputs' second moments :math:`G_b` and :math:`G_s`, the weights that answer
best in the sense of least squares have a closed form,

.. math::
    W = \big((1-\alpha) W_b G_b + \alpha W_s G_s\big) \big((1-\alpha) G_b + \alpha G_s\big)^{-1},

so that each end keeps its say on the inputs that it sees. It needs inputs, and no labels. At
:math:`\alpha = 0` it is the buyer's layer; where both see the same inputs, it is the interpolation.
As published, moments of two different inputs are reduced, which steadies the inverse. Biases are
the weights of one more input that is always 1. Other tensors are interpolated.
"""

import torch
from torch import Tensor, nn

from fl_market.merging.interpolation import Alpha, Merge, interpolate
from fl_market.merging.layers import tensor_of
from fl_market.observation import Call, observe
from fl_market.parameters import StateDict

SAMPLES = 1000
REDUCTION = 0.9
"""Factor on the moments of two different inputs; 0.9 in the paper."""
RIDGE = 1e-6
"""Share of the mean moment that is added to each input's own: an input may always be 0."""


def regression_mean(own: StateDict, other: StateDict, model: nn.Module, inputs: Tensor) -> Merge:
    """Return the merge of two models as a function of one purchased weight.

    Parameters
    ----------
    own, other
        State dicts of the buyer and of the aligned seller. A tensor that is one object in both is
        not for sale, and stays as it is.
    model
        Their architecture; its own parameters and its mode stay as they are.
    inputs
        Unlabelled samples, shape (samples, …), of which the first 1000 are used.

    Returns
    -------
    Merge
        It raises TypeError for weights by tensor or row.
    """
    calls: list[str] = []
    layers = [name for name, module in model.named_modules() if _is_linear(module)]
    observe(model, own, inputs[:2], lambda call: calls.append(call.name), of=layers)
    # a layer that is called twice has two kinds of inputs
    layers = [
        name
        for name in layers
        if calls.count(name) == 1 and own[tensor_of(name, "weight")] is not other[tensor_of(name, "weight")]
    ]
    inputs = inputs[:SAMPLES]
    mine, theirs = (_moments(model, state, inputs, layers) for state in (own, other))

    def merged(alpha: Alpha) -> StateDict:
        if not isinstance(alpha, float | int | Tensor):
            raise TypeError("the regression mean needs one purchased weight")
        found = interpolate(own, other, alpha)
        for name in layers:
            found |= _mean(name, own, other, mine[name], theirs[name], alpha)
        return found

    return merged


def _mean(
    layer: str, own: StateDict, other: StateDict, mine: Tensor, theirs: Tensor, alpha: float | Tensor
) -> dict[str, Tensor]:
    weights, biases = tensor_of(layer, "weight"), tensor_of(layer, "bias")
    moments = (1 - alpha) * mine + alpha * theirs
    answers = (1 - alpha) * _rows(own, layer) @ mine + alpha * _rows(other, layer) @ theirs
    moments = moments + RIDGE * moments.diagonal().mean() * torch.eye(
        len(moments), dtype=moments.dtype, device=moments.device
    )
    # absurd parameters have no solution: no error then, but no finite loss either
    solution, _ = torch.linalg.solve_ex(moments, answers.T)
    rows = solution.T.to(own[weights].dtype)
    if biases not in own:
        return {weights: rows.reshape(own[weights].shape)}
    return {weights: rows[:, :-1].reshape(own[weights].shape), biases: rows[:, -1]}


def _rows(state: StateDict, layer: str) -> Tensor:
    """Return a layer's weights in double precision, shape (units, inputs), then the biases."""
    rows = state[tensor_of(layer, "weight")].flatten(1)
    bias = state.get(tensor_of(layer, "bias"))
    return (rows if bias is None else torch.cat([rows, bias[:, None]], 1)).double()


def _moments(model: nn.Module, state: StateDict, inputs: Tensor, layers: list[str]) -> dict[str, Tensor]:
    """Return the reduced second moments of each layer's inputs."""
    found: dict[str, Tensor] = {}

    def note(call: Call) -> None:
        vectors = _vectors(call.module, call.inputs[0])
        if call.module.bias is not None:
            vectors = torch.cat([vectors, vectors.new_ones(len(vectors), 1)], 1)
        moments = (vectors.T @ vectors).double() / len(vectors)
        found[call.name] = REDUCTION * moments + (1 - REDUCTION) * torch.diag(moments.diagonal())

    with torch.no_grad():
        observe(model, state, inputs, note, of=layers)
    return found


def _vectors(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return the inputs of a layer's units, shape (vectors, weights of a unit)."""
    if isinstance(module, nn.Conv2d):
        assert not isinstance(module.padding, str)
        patches = nn.functional.unfold(inputs, module.kernel_size, module.dilation, module.padding, module.stride)
        return patches.transpose(1, 2).flatten(0, 1)
    return inputs.flatten(0, -2)


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)
