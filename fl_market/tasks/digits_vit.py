"""MNIST with torchvision's vision transformer, made small (Dosovitskiy et al. 2021)."""

from typing import cast

from torch import nn

from fl_market.tasks.mnist import mnist_task
from fl_market.tasks.task import Task, TaskOptions
from fl_market.tasks.torchvision_import import import_torchvision

PATCH, LAYERS, HEADS, WIDTH, INNER = 7, 2, 4, 32, 64


def digits_vit(options: TaskOptions) -> Task:
    """Return the task ``digits-vit``."""
    return mnist_task("digits-vit", build_vit, options)


def build_vit(classes: int = 10) -> nn.Module:
    """Return the untrained transformer: 16 patches of 7 x 7 pixels, two blocks of four heads."""
    model = import_torchvision().models.VisionTransformer(28, PATCH, LAYERS, HEADS, WIDTH, INNER, num_classes=classes)
    # torchvision's network is for three colours, and its head is all zeros before training
    model.conv_proj = nn.Conv2d(1, WIDTH, PATCH, PATCH)
    model.heads = nn.Linear(WIDTH, classes)
    return cast(nn.Module, model)
