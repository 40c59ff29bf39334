"""Residual networks for small images.

He et al. 2016, section 4.2; Zagoruyko and Komodakis 2016.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (as PyTorch itself names it)

from fl_market.errors import MarketError

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    # over all channels and pixels of a sample: LayerNorm for images, as in the paper's networks
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "group": lambda channels: nn.GroupNorm(4, channels),
}


STEM = 16
"""Channels of the first convolution, and of the first stage before widening."""


class Block(nn.Module):
    """Two 3 x 3 convolutions, their norm layers and a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = norm(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), norm(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for images (samples, channels_in, height, width)."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network of three stages, with 16, 32 and 64 times ``widen`` channels.

    Parameters
    ----------
    blocks
        Blocks in each stage: 1 is ResNet8, 3 is ResNet20. The paper counts the shortcuts too and
        calls the widened ResNet20 "depth 22".
    widen
        Factor of the channels.
    norm
        ``"batch"``, ``"layer"`` or ``"group"`` (four groups).
    channels
        Channels of the images.
    classes
        Number of outputs.

    Raises
    ------
    MarketError
        If the norm is unknown.
    """

    def __init__(
        self, blocks: int = 3, widen: int = 1, norm: str = "batch", channels: int = 3, classes: int = 10
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise MarketError(f"unknown norm {norm!r}; known are {', '.join(NORMS)}")
        make_norm = NORMS[norm]
        self.conv = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
        self.norm = make_norm(STEM)
        before, stages = STEM, []
        for stage in range(3):
            width = STEM * widen * 2**stage
            for index in range(blocks):
                stride = 2 if stage and not index else 1
                stages.append(Block(before, width, stride, make_norm))
                before = width
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (samples, classes) of images (samples, channels, height, width)."""
        x = self.blocks(F.relu(self.norm(self.conv(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits
