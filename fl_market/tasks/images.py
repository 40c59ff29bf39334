"""Normalisation and augmentation of colour images."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fl_market.tasks.torchvision_import import import_torchvision

PADDING = 4


def normalised(images: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """Return normalised floats from unsigned bytes (samples, channels, height, width)."""
    shift, scale = (torch.tensor(numbers).reshape(1, -1, 1, 1) for numbers in (mean, deviation))
    return (images.float() / 255 - shift) / scale


def crop_and_flip(size: int) -> Callable[[Tensor], Tensor]:
    """Return the published augmentation: crops after padding by 4 pixels, and horizontal flips.

    It draws from torch's global generator.
    """
    transforms = import_torchvision().transforms
    transform = transforms.Compose([transforms.RandomCrop(size, padding=PADDING), transforms.RandomHorizontalFlip()])

    def augment(images: Tensor) -> Tensor:
        return torch.stack([transform(image) for image in images])

    return augment
