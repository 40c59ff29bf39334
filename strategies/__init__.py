"""The broker on Flower's server side: the market's Strategy, and the baselines that it is compared with."""

from strategies.market import ParameterMarket

__all__ = ["ParameterMarket"]
