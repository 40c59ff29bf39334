"""The broker on Flower's server side: the market's strategy and the baselines."""

from strategies.market import ParameterMarket

__all__ = ["ParameterMarket"]
