"""The linear market in which everything can be known exactly (paper, sections 4, 6.1.3, 6.1.4 and 6.2)."""

from fl_market.linear.market import AGENTS, LinearMarket, LinearRun, Purchase

__all__ = ["AGENTS", "LinearMarket", "LinearRun", "Purchase"]
