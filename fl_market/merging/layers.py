"""Partial purchases by layers (paper, section 6.1.2, "Trading different layers").

A *layer* is a module that owns parameters, with its buffers. Layers are numbered in the order of
the state dict. The seller's units are in the buyer's order already, so that the part that is bought
fits the borders of the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from fl_market.errors import MarketError
from fl_market.parameters import StateDict, copied, state_of

ALL = "all"

Value = Callable[[frozenset[str]], float]
"""Gain of a set of layers."""
Cost = Callable[[frozenset[str]], int]
"""Number of parameters of a set of layers."""


def layers_of(model: nn.Module | StateDict) -> tuple[str, ...]:
    """Return the names of the layers, in the order of the state dict."""
    return tuple(dict.fromkeys(layer_of(name) for name in state_of(model)))


def layer_of(tensor: str) -> str:
    """Return the layer that a tensor belongs to."""
    return tensor.rpartition(".")[0]


def tensor_of(layer: str, tensor: str) -> str:
    """Return a tensor's name in a state dict; the layer of a model that is one layer has no name.

    Examples
    --------
    >>> tensor_of("0.1", "weight"), tensor_of("", "weight")
    ('0.1.weight', 'weight')
    """
    return f"{layer}.{tensor}" if layer else tensor


def layer_sizes(model: nn.Module | StateDict) -> dict[str, int]:
    """Return the number of parameters of each layer; counters and other integers do not count.

    Examples
    --------
    >>> layer_sizes(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    {'0': 40, '2': 18}
    """
    sizes = dict.fromkeys(layers_of(model), 0)
    for name, tensor in state_of(model).items():
        if tensor.is_floating_point():
            sizes[layer_of(name)] += tensor.numel()
    return sizes


def select_layers(model: nn.Module | StateDict, selection: str) -> tuple[str, ...]:
    """Return the layers that a selection names.

    Parameters
    ----------
    model
        A module or its state dict.
    selection
        ``"all"``, or indices and name patterns separated by commas: ``"0,1"``, ``"-1"`` (the last),
        ``"blocks.*,head"``.

    Returns
    -------
    tuple of str
        In the order of the state dict, each once.

    Raises
    ------
    MarketError
        If a part of the selection names no layer.
    """
    layers = layers_of(model)
    if selection == ALL:
        return layers
    chosen: set[str] = set()
    for part in (part.strip() for part in selection.split(",")):
        if part.removeprefix("-").isdecimal():  # an index, also where layers have numbers for names
            found = [layers[int(part)]] if -len(layers) <= int(part) < len(layers) else []
        else:
            found = [layer for layer in layers if fnmatchcase(layer, part)]
        if not found:
            raise MarketError(
                f"layers must be {ALL!r}, indices from 0 to {len(layers) - 1}, or patterns of the names "
                f"{', '.join(layers)}; {part!r} names no layer"
            )
        chosen.update(found)
    return tuple(layer for layer in layers if layer in chosen)


def only_layers(buyer: StateDict, seller: StateDict, layers: Sequence[str]) -> dict[str, Tensor]:
    """Return the seller's parameters for some layers, and the buyer's own tensors for all others.

    A merge of the buyer's model with it leaves those others as they are.
    """
    wanted, part = set(layers), copied(buyer)
    part.update({name: seller[name] for name in buyer if layer_of(name) in wanted})
    return part


def best_layers(
    budget: int, sizes: Mapping[str, int], gain: Callable[[frozenset[str]], float]
) -> tuple[frozenset[str], float]:
    """Return the layers to buy within a budget: greedily, by certified gain per parameter.

    Parameters
    ----------
    budget
        Number of parameters that can be paid for.
    sizes
        Parameters of each layer, as :func:`layer_sizes` returns them.
    gain
        The gain of buying some layers: a lower confidence bound on data that does not certify the
        purchase in the end.

    Returns
    -------
    frozenset of str, float
        The layers and their gain; none, and 0, where no set of layers within the budget gains.

    Raises
    ------
    MarketError
        If the budget is negative.

    Notes
    -----
    The better of two greedy searches counts. The first adds layers to none while each adds the
    greatest gain per parameter. The second drops layers from the whole while each loses the least,
    until it fits. Layers may be worth more together than each alone; only the second search sees
    that. Both ask for at most ``n² + n`` gains, where an exhaustive search needs ``2ⁿ``.
    """
    if budget < 0:
        raise MarketError(f"the budget must be at least 0 parameters; got {budget}")
    known: dict[frozenset[str], float] = {frozenset(): 0.0}

    def value(layers: frozenset[str]) -> float:
        if layers not in known:
            known[layers] = gain(layers)
        return known[layers]

    def cost(layers: frozenset[str]) -> int:
        return sum(sizes[layer] for layer in layers)

    _add_layers(budget, sizes, value, cost)
    _drop_layers(budget, sizes, value, cost)
    affordable = [layers for layers in known if cost(layers) <= budget]
    chosen = max(affordable, key=lambda layers: (known[layers], -cost(layers), sorted(layers)))
    return chosen, known[chosen]


def _add_layers(budget: int, sizes: Mapping[str, int], value: Value, cost: Cost) -> None:
    """Evaluate sets of layers, from none on, while one more within the budget adds a gain."""
    bought: frozenset[str] = frozenset()
    while steps := [layer for layer in sizes if layer not in bought and cost(bought | {layer}) <= budget]:
        best = max(steps, key=lambda layer: (value(bought | {layer}) - value(bought)) / max(1, sizes[layer]))
        if value(bought | {best}) <= value(bought):
            break
        bought |= {best}


def _drop_layers(budget: int, sizes: Mapping[str, int], value: Value, cost: Cost) -> None:
    """Evaluate sets of layers, from all on, until one fits the budget and a smaller one loses."""
    left = frozenset(sizes)
    while left and (cost(left) > budget or any(value(left - {layer}) > value(left) for layer in left)):
        left -= {
            min(
                (layer for layer in sizes if layer in left),
                key=lambda layer: (value(left) - value(left - {layer})) / max(1, sizes[layer]),
            )
        }
