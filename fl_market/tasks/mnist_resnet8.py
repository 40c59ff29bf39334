"""MNIST with a small residual network, to try norm layers without a download."""

from fl_market.tasks.mnist import mnist_task
from fl_market.tasks.resnet import ResNet
from fl_market.tasks.task import Task, TaskOptions


def mnist_resnet8(options: TaskOptions) -> Task:
    """Return the task ``mnist-resnet8``, with norm layers and width by ``norm`` and ``widen``."""

    def build(classes: int) -> ResNet:
        return ResNet(blocks=1, widen=options.widen, norm=options.norm, channels=1, classes=classes)

    return mnist_task("mnist-resnet8", build, options)
