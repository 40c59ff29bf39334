"""A user-defined partition: agents get even or odd classes, and a share of the others.

    fl-market compare --partition "examples/own_partition.py:by_parity(0.05)" --arms siloed,market

A partition is a function (targets, agents, seed, number, …) that returns each agent's indices.
"""

import torch
from torch import Tensor


def by_parity(targets: Tensor, agents: int, seed: int, share: float = 0.1) -> list[Tensor]:
    """Return the indices of each agent's samples.

    Parameters
    ----------
    targets
        Classes of the training samples, shape (samples,).
    agents
        Number of agents: A, C, … get the even classes.
    seed
        Seed of the choice among the other samples.
    share
        Share of the other classes' samples.
    """
    parts = []
    for agent in range(agents):
        generator = torch.Generator().manual_seed(1000 * seed + agent)
        kept = (targets % 2 == agent % 2) | (torch.rand(len(targets), generator=generator) < share)
        parts.append(torch.nonzero(kept).flatten())
    return parts
