r"""A user-defined task: classify points in the plane by three rings.

    fl-market compare --task examples/own_task.py:rings --rounds 20 --broker-samples 600 \
        --partition "dirichlet(0.3)" --arms siloed,fedavg,market-fine --out runs/rings

A task is a function from ``TaskOptions`` to ``Task``. ``shared_task`` takes the broker's data out
of the training set, divides the rest by the option ``partition``, and keeps the samples of
``options.party`` alone. Other tasks can build a ``Task`` directly; the market then drops what the
party must not have.
"""

import math

import torch
from torch import Tensor, nn

from fl_market.tasks import Task, TaskOptions, shared_task

RINGS = 3


def rings(options: TaskOptions) -> Task:
    """Return the task with 3 000 training points and 1 000 test points."""
    generator = torch.Generator().manual_seed(options.seed)
    return shared_task("rings", build, draw(3000, generator), draw(1000, generator), options, batch_size=32)


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return points, shape (count, 2), and the numbers of their rings, shape (count,)."""
    ring = torch.randint(0, RINGS, (count,), generator=generator)
    radius = 1 + ring + 0.2 * torch.randn(count, generator=generator)
    angle = 2 * math.pi * torch.rand(count, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), ring


def build(classes: int) -> nn.Module:
    """Return an untrained model."""
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, classes))
