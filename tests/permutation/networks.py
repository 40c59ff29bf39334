"""Networks that people really train, small enough to try."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (as PyTorch itself names it)

from fl_market.tasks.torchvision_import import import_torchvision


class GPT(nn.Module):
    """A GPT-style block with packed attention and tied embeddings."""

    def __init__(self, vocabulary=50, width=32, heads=4):
        super().__init__()
        self.heads = heads
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Parameter(torch.randn(1, 16, width))
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places[:, : tokens.size(1)]
        batch, time, width = x.size()
        parts = self.attention(self.norm1(x)).split(width, dim=2)
        q, k, v = (part.view(batch, time, self.heads, -1).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(y.transpose(1, 2).contiguous().view(batch, time, width))
        return self.head(self.norm3(x + self.outer(F.gelu(self.inner(self.norm2(x))))))


class ByHand(GPT):
    """The same with attention written out as matrix products and a softmax."""

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places[:, : tokens.size(1)]
        batch, time, width = x.size()
        parts = self.attention(self.norm1(x)).chunk(3, dim=-1)
        q, k, v = (part.view(batch, time, self.heads, -1).transpose(1, 2) for part in parts)
        scores = (q @ k.transpose(-2, -1)) / (width // self.heads) ** 0.5
        scores = scores.masked_fill(torch.ones(time, time).tril() == 0, float("-inf"))
        y = F.softmax(scores, dim=-1) @ v
        x = x + self.projection(y.transpose(1, 2).reshape(batch, time, width))
        return self.head(self.norm3(x + self.outer(F.gelu(self.inner(self.norm2(x))))))


class Gated(nn.Module):
    """A gated linear unit: both halves of one layer are one set of units."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(6, 16), nn.RMSNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        gate, value = self.first(x).chunk(2, dim=-1)
        return self.head(self.norm(F.silu(gate) * value))


class Grouped(nn.Module):
    """Grouped convolutions, and a GroupNorm with several groups."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 12, 3), nn.GroupNorm(3, 12)
        self.grouped, self.second = nn.Conv2d(12, 24, 3, groups=4), nn.Conv2d(24, 8, 1)
        self.prelu, self.head = nn.PReLU(8), nn.Linear(8 * 16, 3)

    def forward(self, x):
        x = F.relu(self.grouped(F.relu(self.norm(self.first(x)))))
        return self.head(self.prelu(self.second(x)).flatten(1))


class Sequence(nn.Module):
    """1-d convolutions, an InstanceNorm and a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv1d(2, 6, 3), nn.InstanceNorm1d(6, affine=True)
        self.up, self.head = nn.ConvTranspose1d(6, 5, 2), nn.Conv1d(5, 2, 1)

    def forward(self, x):
        return self.head(torch.tanh(self.up(F.leaky_relu(self.norm(self.first(x))))))


class Volume(nn.Module):
    """3-d convolutions with BatchNorm, concatenated with their input."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.head = nn.Conv3d(2, 5, 3, padding=1), nn.BatchNorm3d(5), nn.Linear(7, 3)

    def forward(self, x):
        x = torch.cat([F.relu(self.norm(self.first(x))), x], dim=1)
        return self.head(x.mean((2, 3, 4)))


def own(name):
    """One of the networks above, and its inputs."""
    tokens, images = torch.randint(0, 50, (2, 16)), torch.randn(2, 3, 8, 8)
    inputs = {"GPT": tokens, "ByHand": tokens, "Gated": torch.randn(4, 6), "Grouped": images}
    inputs |= {"Sequence": torch.randn(2, 2, 12), "Volume": torch.randn(2, 2, 4, 4, 4)}
    return randomised(globals()[name]()), inputs[name]


def classifier(name):
    """A classifier of torchvision with random weights, and images."""
    import_torchvision()
    from torchvision import models

    size = 64 if name != "vit_b_16" else 224
    return randomised(getattr(models, name)(weights=None)), torch.randn(2, 3, size, size)


@torch.no_grad()
def randomised(model):
    """The model with norm parameters and statistics that are not trivial, and no layer of zeros."""
    for module in model.modules():
        if getattr(module, "running_var", None) is not None:
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=module.in_features**-0.5)
        elif "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None:
            module.weight.uniform_(0.5, 1.5)
            if getattr(module, "bias", None) is not None:
                module.bias.normal_(std=0.1)
    return model.eval()
