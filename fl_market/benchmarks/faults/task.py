"""The smallest task: agents with four samples each, and a model of six parameters."""

import torch
from torch import nn

from fl_market.seeds import torch_generator
from fl_market.tasks import Task, TaskOptions


def smallest(options: TaskOptions) -> Task:
    """Return the task."""
    generator = torch_generator(options.seed, "smallest-task")
    data = [
        (torch.randn(4, 2, generator=generator), torch.randint(2, (4,), generator=generator))
        for _ in range(options.agents + 2)
    ]
    return Task(
        name=options.name,
        build=lambda classes: nn.Linear(2, classes),
        classes=2,
        criterion=nn.CrossEntropyLoss(reduction="none"),
        agents=tuple(data[2:]),
        broker=data[0],
        test=data[1],
        batch_size=4,
    )
