"""Networks that the benchmarks train."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (as PyTorch itself names it)

from fl_market.data import Batch
from fl_market.seeds import derive_seed, reproducible
from fl_market.tasks.mnist_mlp import build_mlp

WIDTHS = (784, 512, 512, 512, 512)
BATCH_SIZE = 128


def mlp() -> nn.Module:
    """Return an untrained perceptron, 784-512-512-512-512-10."""
    return build_mlp(widths=WIDTHS)


def initial(build: Callable[[], nn.Module], seed: int, index: int) -> nn.Module:
    """Return the untrained network of an index."""
    with reproducible(seed, "bench-initial-weights", index):
        return build()


def trained(
    build: Callable[[], nn.Module],
    data: Batch,
    epochs: int,
    seed: int,
    index: int,
    *,
    learning_rate: float = 0.1,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> nn.Module:
    """Return a network trained by SGD with Nesterov momentum and a one-cycle learning rate.

    All cores are used, so the weights depend on the machine.
    """
    model = initial(build, seed, index).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs, targets = data
    optimiser = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * -(-len(inputs) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=0.25)
    torch.manual_seed(derive_seed(seed, "bench-training", index))
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(BATCH_SIZE):  # type: ignore[no-untyped-call]
            images = inputs[batch]
            loss = F.cross_entropy(model(augment(images) if augment else images), targets[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    trained_model: nn.Module = model.eval().to(memory_format=torch.contiguous_format)
    return trained_model


def flip_and_roll(images: Tensor) -> Tensor:
    """Return a batch of images, randomly flipped horizontally and rolled by up to four pixels."""
    if torch.rand(()) < 0.5:
        images = images.flip(3)
    down, right = torch.randint(-4, 5, (2,)).tolist()
    return images.roll((down, right), (2, 3))
