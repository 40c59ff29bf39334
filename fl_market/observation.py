"""Observe the modules of a model while it runs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from fl_market.parameters import StateDict


@dataclass(frozen=True)
class Call:
    """One call of a module.

    Attributes
    ----------
    name
        Name of the module in the model.
    module
        The module itself.
    inputs
        Its positional arguments.
    output
        Its result, a tensor as a rule.
    """

    name: str
    module: nn.Module
    inputs: tuple[Any, ...]
    output: Any


Visit = Callable[[Call], Tensor | None]
"""Called after each call of an observed module; a returned tensor takes the place of the output."""


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block, and restore each module's mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def observe(model: nn.Module, state: StateDict, inputs: Tensor, visit: Visit, *, of: Iterable[str]) -> None:
    """Run a model in evaluation mode, and visit the calls of some of its modules.

    Parameters
    ----------
    model
        The architecture. Its own parameters and its mode stay as they are.
    state
        The parameters to run it with.
    inputs
        A batch, shape (samples, …).
    visit
        What to do after each call, in the order of the calls.
    of
        Names of the modules to observe, as ``named_modules`` returns them.
    """

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], Tensor | None]:
        return lambda module, arguments, output: visit(Call(name, module, arguments, output))

    with evaluation_mode(model), ExitStack() as handles:
        for name in of:
            handles.enter_context(model.get_submodule(name).register_forward_hook(hook_for(name)))
        functional_call(model, dict(state), (inputs,), tie_weights=False)
