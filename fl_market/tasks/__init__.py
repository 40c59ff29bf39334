"""What is trained: data, partition, model and loss, under one name."""

from fl_market.tasks.mnist_mlp import mnist_mlp
from fl_market.tasks.task import TASKS, DataOptions, Task, load_task

TASKS["mnist-mlp"] = mnist_mlp

__all__ = ["TASKS", "DataOptions", "Task", "load_task"]
