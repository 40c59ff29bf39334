"""A small world in which the market's default terms certify gains, and in which they are real.

Six classes; agent A knows the first three, and B the others. The broker has a few labels to fit and
many to certify, so that neither placebo sellers nor its own steps bring what the other agent knows.
"""

import torch
from torch import nn

from fl_market.broker import Broker, Terms
from fl_market.protocol import Bid

CLASSES, INPUTS = 6, 8


def build():
    return nn.Sequential(nn.Linear(INPUTS, 24), nn.ReLU(), nn.Linear(24, CLASSES))


def blobs(count, seed):
    """Return samples of six classes around six centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = 1.5 * torch.randn(CLASSES, INPUTS, generator=torch.Generator().manual_seed(99))
    targets = torch.arange(count) % CLASSES
    return centres[targets] + torch.randn(count, INPUTS, generator=generator), targets


def trained(seed, classes):
    """Return a model that is certain of some classes, and has never seen the others."""
    torch.manual_seed(seed)
    model, (inputs, targets) = build(), blobs(1200, seed)
    known = torch.isin(targets, torch.tensor(classes))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs[known]), targets[known]).backward()
        optimiser.step()
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def specialists():
    return {"A": trained(1, [0, 1, 2]), "B": trained(2, [3, 4, 5])}


def broker(labels=24, **terms):
    """Return a broker with some labels to fit, and 600 to certify."""
    criterion = nn.CrossEntropyLoss(reduction="none")
    terms = Terms(**({"pricing": "free"} | terms))
    made = Broker(build(), criterion, blobs(labels, 7), blobs(600, 8), terms=terms)
    for agent in ("A", "B", "C"):
        made.seat(agent)
    return made


def by_pair(trials):
    return {(trial.buyer, trial.seller): trial for trial in trials if not trial.after}


def traded(made, models, **options):
    """Play one round in which every buyer takes its first offer."""
    trading = made.open_round(models, **options)
    bidding = trading.accept_bids({buyer: [Bid(some[0].id, 0)] for buyer, some in trading.offers.items()})
    bargain = bidding.accept_asks({})
    deliveries = bargain.deliver()
    outcome = bargain.conclude({name: delivery.acknowledge() for name, delivery in deliveries.items()})
    made.conclude(outcome)
    return trading, deliveries, outcome
