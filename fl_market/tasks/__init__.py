"""Tasks: data, its partition, a model and a loss under one name."""

from fl_market.tasks.cifar10 import cifar10_resnet20
from fl_market.tasks.digits_vit import digits_vit
from fl_market.tasks.loading import load_task
from fl_market.tasks.mnist_mlp import mnist_mlp
from fl_market.tasks.mnist_resnet8 import mnist_resnet8
from fl_market.tasks.partition import by_partitioner, shared_task
from fl_market.tasks.task import TASKS, Task, TaskOptions, find_task
from fl_market.tasks.tinyimagenet import tinyimagenet_resnet20

TASKS["mnist-mlp"] = mnist_mlp
TASKS["mnist-resnet8"] = mnist_resnet8
TASKS["digits-vit"] = digits_vit
TASKS["cifar10-resnet20"] = cifar10_resnet20
TASKS["tinyimagenet-resnet20"] = tinyimagenet_resnet20

__all__ = ["TASKS", "Task", "TaskOptions", "by_partitioner", "find_task", "load_task", "shared_task"]
