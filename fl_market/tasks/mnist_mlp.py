"""The five-layer MLP of the published experiments on MNIST (784-32-32-32-16-10)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from fl_market.tasks.mnist import mnist_task
from fl_market.tasks.task import Task, TaskOptions

WIDTHS = (784, 32, 32, 32, 16)


def mnist_mlp(options: TaskOptions) -> Task:
    """Return the task ``mnist-mlp``; ``options.widen`` multiplies the hidden units."""
    pixels, *hidden = WIDTHS
    widths = (pixels, *(options.widen * width for width in hidden))
    return mnist_task("mnist-mlp", lambda classes: build_mlp(classes, widths), options)


def build_mlp(classes: int = 10, widths: Sequence[int] = WIDTHS) -> nn.Module:
    """Return the untrained network: ReLU between the layers, none after the last."""
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise((*widths, classes)):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
