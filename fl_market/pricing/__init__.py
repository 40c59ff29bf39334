"""Valuation and pricing (paper, sections 3.4 and 4): priors, the seller's ask, bargaining, and the choice of rule."""

from fl_market.pricing.bargaining import nash_price, nash_transfer
from fl_market.pricing.money import CREDIT, credits_text, micro_credits
from fl_market.pricing.priors import Exponential, Prior, Uniform, myerson_price, parse_prior
from fl_market.pricing.rules import RULES, PricingRule, free, nash

__all__ = [
    "CREDIT",
    "RULES",
    "Exponential",
    "PricingRule",
    "Prior",
    "Uniform",
    "credits_text",
    "free",
    "micro_credits",
    "myerson_price",
    "nash",
    "nash_price",
    "nash_transfer",
    "parse_prior",
]
