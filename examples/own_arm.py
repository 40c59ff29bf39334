r"""User-defined arms: a market with two purchases a round, and federated averaging by the median.

    fl-market compare --agents 3 \
        --arms siloed,market,examples/own_arm.py:two_sellers,examples/own_arm.py:median

An ``Arm`` names the builder of a strategy, the initialisation of the agents, and the first round in
which they exchange models. ``market(…)`` builds a market with the user's options and the given
terms. ``averaging(…)`` builds a Flower strategy that averages models and records the agents' tests.
"""

from flwr.serverapp.strategy import FedMedian

from strategies.arms import Arm, averaging, market
from strategies.baselines import RecordedFedAvg

two_sellers = Arm("market, two sellers", market(max_purchases=2))


class RecordedFedMedian(RecordedFedAvg, FedMedian):
    """Flower's FedMedian, with the history of a comparison."""


median = Arm("FedMedian", averaging(RecordedFedMedian), "common", lambda options: 1, uses=frozenset())
