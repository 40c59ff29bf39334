"""The linear market, with exactly known quantities (paper, sections 4, 6.1.3, 6.1.4, 6.2)."""

from fl_market.linear.market import AGENTS, LinearMarket, LinearRun, Purchase

__all__ = ["AGENTS", "LinearMarket", "LinearRun", "Purchase"]
