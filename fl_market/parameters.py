"""State dicts as values: the checks that a received one must pass, and its digest."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fl_market.errors import MarketError

StateDict = Mapping[str, Tensor]


def state_of(model: nn.Module | StateDict) -> StateDict:
    """Return the state dict of a module, or the state dict itself."""
    return model.state_dict() if isinstance(model, nn.Module) else model


def load_parameters(model: nn.Module, state: StateDict) -> None:
    """Load a state dict into a model, with the version metadata of the model's own state dict.

    Received and merged state dicts carry no ``_metadata``, without which some modules refuse to
    load (torchvision's ``mnasnet0_5``), or convert the parameters as if they were of an old version.

    Raises
    ------
    RuntimeError
        If names or shapes differ from the model's.
    """
    complete = OrderedDict(state)
    complete._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(complete)


def check_parameters(received: StateDict, template: StateDict) -> None:
    """Raise unless ``received`` could be loaded into the model that ``template`` came from.

    Parameters
    ----------
    received, template
        State dicts; names, shapes and dtypes must agree, and every floating-point value must be finite.

    Raises
    ------
    MarketError
        With one sentence that names the first tensor that is wrong.
    """
    if missing := [name for name in template if name not in received]:
        raise MarketError(f"the parameters lack {missing[0]!r}, which the model has")
    if unknown := [name for name in received if name not in template]:
        raise MarketError(f"the parameters contain {unknown[0]!r}, which the model does not have")
    for name, expected in template.items():
        tensor = received[name]
        if tensor.shape != expected.shape:
            raise MarketError(f"{name!r} has shape {tuple(tensor.shape)}, but the model's is {tuple(expected.shape)}")
        if tensor.dtype != expected.dtype:
            raise MarketError(f"{name!r} has dtype {tensor.dtype}, but the model's is {expected.dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise MarketError(f"{name!r} contains NaN or infinite values")


def digest(state: StateDict) -> str:
    """Return the SHA-256 of a state dict: names, dtypes, shapes and values, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
