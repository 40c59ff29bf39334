"""A scan for backdoors (beyond the paper): a small change of any input that decides the class.

A seller can hide a backdoor in its parameters: wherever a trigger is in the input, such as a few
pixels in a corner, the model answers one class. Clean data show nothing. For each class, the scan
searches for the smallest mask and a pattern under it that turn the broker's inputs into that class
(*Neural Cleanse*, Wang et al., 2019). Through a backdoor, a far smaller mask is enough than for the
other classes. The published test divides by the spread of the sizes among classes, which is
unsteady with few of them; here the smallest is compared with their median.

On MNIST the least mask of an honest perceptron has 0.5 to 0.8 times the median's size, and that of
one with a trigger of 3 × 3 pixels about 0.1 times (``tests/market/test_triggers.py``).
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fl_market.parameters import StateDict

INPUTS = 64
"""Number of the broker's inputs that a trigger must change."""
STEPS, LEARNING_RATE = 150, 0.2
OBEYED = 0.95
"""Share of the inputs that must become the class."""
WEIGHT, FACTOR = 0.01, 1.1
"""First weight of the mask's size in the search, and its change after each step: a mask that is
obeyed has to shrink, and another may grow."""


def smallest_triggers(model: nn.Module, state: StateDict, inputs: Tensor) -> Tensor:
    """Return the size of the smallest trigger found for each class.

    Parameters
    ----------
    model
        The architecture, in evaluation mode; its outputs are one number for each class.
    state
        Its parameters.
    inputs
        Floating-point inputs, shape (samples, …); the mask of an image is common to its channels.

    Returns
    -------
    Tensor
        Sum of the mask, shape (classes,); infinite for a class without a trigger.
    """
    parameters, inputs = dict(state), inputs[:INPUTS]
    samples, shape = len(inputs), inputs.shape[1:]
    low, high = inputs.min(), inputs.max()
    with torch.no_grad():
        classes = functional_call(model, parameters, (inputs[:2],)).shape[1]
    masked = (1, *shape[1:]) if len(shape) > 2 else tuple(shape)
    mask = torch.full((classes, 1, *masked), -2.0, device=inputs.device, requires_grad=True)
    pattern = torch.zeros((classes, 1, *shape), device=inputs.device, requires_grad=True)
    targets = torch.arange(classes, device=inputs.device).repeat_interleave(samples)
    optimiser = torch.optim.Adam([mask, pattern], LEARNING_RATE)
    weights = torch.full((classes,), WEIGHT, device=inputs.device)
    smallest = torch.full((classes,), torch.inf, device=inputs.device)
    for _ in range(STEPS):
        share, drawn = mask.sigmoid(), low + (high - low) * pattern.sigmoid()
        changed = ((1 - share) * inputs + share * drawn).flatten(0, 1)
        outputs = functional_call(model, parameters, (changed,))
        sizes = share.flatten(1).sum(1)
        obeyed = (outputs.argmax(1) == targets).view(classes, samples).float().mean(1) >= OBEYED
        smallest = torch.where(obeyed, torch.minimum(smallest, sizes.detach()), smallest)
        weights = torch.where(obeyed, weights * FACTOR, weights / FACTOR)
        losses = nn.functional.cross_entropy(outputs, targets, reduction="none").view(classes, samples).mean(1)
        (gradient, drift) = torch.autograd.grad((losses + weights * sizes).sum(), [mask, pattern])
        mask.grad, pattern.grad = gradient, drift
        optimiser.step()
    return smallest.cpu()


def hides_trigger(sizes: Tensor, share: float) -> bool:
    """Return whether one class has a far smaller trigger than the others.

    Parameters
    ----------
    sizes
        Of the smallest triggers, one for each class. A model with little training has classes
        without any; they do not count.
    share
        Least honest size, as a share of the median.

    Examples
    --------
    >>> hides_trigger(torch.tensor([6.0, 60.0, 70.0]), 0.3)
    True
    >>> hides_trigger(torch.tensor([40.0, torch.inf, torch.inf]), 0.3)
    False
    """
    found = sizes[sizes.isfinite()]
    return len(found) > 1 and bool(found.min() < share * found.median())
