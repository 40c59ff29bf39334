"""Matched averaging: what alignment and repair bring to plain averaging, without any label."""

from collections.abc import Mapping

import torch

from fl_market.hardware import CPU, Hardware
from fl_market.market.alignment import Aligner
from fl_market.market.buyers import Buyer
from fl_market.parameters import StateDict
from fl_market.seeds import reproducible


def average_matched(
    models: Mapping[str, StateDict], buyer: Buyer, aligner: Aligner, seed: int, hardware: Hardware = CPU
) -> StateDict:
    """Return the average of all models, each in the order of the first one's units and repaired.

    The running average is merged with the next model at the weight of an equal share: two agents
    meet at α = ½. Repair looks at unlabelled inputs only.

    Parameters
    ----------
    models
        Agent -> its parameters, all of one architecture.
    buyer
        The architecture and its repair.
    aligner
        Aligns a model to the first one.
    seed
        Seed of the alignment and of the repair.
    hardware
        Device and precision of the repair.
    """
    first, *others = sorted(models)
    average: StateDict = models[first]
    with reproducible(seed, "matched-average"), torch.no_grad():
        for count, agent in enumerate(others, start=2):
            aligned = aligner.align((buyer, average), (buyer, models[agent])).to_first(models[agent])
            merged = buyer.merged(hardware.place_state(average), hardware.place_state(aligned), 1 / count)
            average = {name: tensor.cpu() for name, tensor in merged.items()}
    return average
