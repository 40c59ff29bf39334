"""State dicts as values: checks of a received one, its digest, and how a model loads it."""

from collections.abc import Mapping
from copy import copy

import torch
from torch import Tensor, nn

from fl_market.digests import digest_of_parts
from fl_market.errors import MarketError

StateDict = Mapping[str, Tensor]


def state_of(model: nn.Module | StateDict) -> StateDict:
    """Return the state dict of a module, or the state dict itself."""
    return model.state_dict() if isinstance(model, nn.Module) else model


def copied(state: StateDict) -> dict[str, Tensor]:
    """Return a new state dict of the same tensors.

    It keeps the versions of the modules, which ``Module.state_dict`` attaches as ``_metadata``.
    Some modules (torchvision's MNASNet) refuse to load a state dict without them.
    """
    return copy(state) if isinstance(state, dict) else dict(state)


def load_parameters(model: nn.Module, state: StateDict) -> None:
    """Load a state dict into a model, also one that crossed a message or a file.

    A state dict without versions of its modules is taken for one of the model's own version.

    Parameters
    ----------
    model
        The model, changed in place.
    state
        A state dict of the same names and shapes; see :func:`check_parameters`.

    Raises
    ------
    RuntimeError
        If names or shapes differ, as ``Module.load_state_dict`` raises.
    """
    if not hasattr(state, "_metadata"):
        versioned = model.state_dict()
        versioned.clear()  # the versions stay
        versioned.update(state)
        state = versioned
    model.load_state_dict(state)


def check_parameters(received: StateDict, template: StateDict) -> None:
    """Raise unless ``received`` could be loaded into the model that ``template`` came from.

    Parameters
    ----------
    received, template
        State dicts; names, shapes and dtypes must agree, and every floating-point value must be
        finite.

    Raises
    ------
    MarketError
        With one sentence that names the first invalid tensor.
    """
    if missing := [name for name in template if name not in received]:
        raise MarketError(f"the parameters lack {missing[0]!r}, which the model has")
    if unknown := [name for name in received if name not in template]:
        raise MarketError(f"the parameters contain {unknown[0]!r}, which the model does not have")
    for name, expected in template.items():
        tensor = received[name]
        if tensor.shape != expected.shape:
            raise MarketError(f"{name!r} must have shape {tuple(expected.shape)}; got {tuple(tensor.shape)}")
        if tensor.dtype != expected.dtype:
            raise MarketError(f"{name!r} must have dtype {expected.dtype}; got {tensor.dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise MarketError(f"{name!r} contains NaN or infinite values")


def digest(state: StateDict) -> str:
    """Return the SHA-256 of a state dict: names, dtypes, shapes and values, sorted by name."""
    if known := getattr(state, "sha256", ""):  # a model in a file
        return str(known)
    tensors = ((name, state[name].detach().cpu().contiguous()) for name in sorted(state))
    return digest_of_parts(
        (name, str(tensor.dtype), tuple(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors
    )
