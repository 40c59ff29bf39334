"""Prices (paper, sections 3.4 and 4): priors, the seller's ask, bargaining, and pricing rules."""

from fl_market.pricing.bargaining import nash_price, nash_transfer
from fl_market.pricing.empirical import Empirical
from fl_market.pricing.gain_bounds import exact_gain, gain_bounds
from fl_market.pricing.money import CREDIT, credits_text, micro_credits
from fl_market.pricing.priors import (
    NO_SALE,
    Exponential,
    Pareto,
    Power,
    Prior,
    TruncatedExponential,
    TruncatedNormal,
    TruncatedPareto,
    Uniform,
    myerson_price,
    parse_prior,
)
from fl_market.pricing.rules import RULES, PricingRule, ask, free, nash, parse_rule, posted, split

__all__ = [
    "CREDIT",
    "NO_SALE",
    "RULES",
    "Empirical",
    "Exponential",
    "Pareto",
    "Power",
    "PricingRule",
    "Prior",
    "TruncatedExponential",
    "TruncatedNormal",
    "TruncatedPareto",
    "Uniform",
    "ask",
    "credits_text",
    "exact_gain",
    "free",
    "gain_bounds",
    "micro_credits",
    "myerson_price",
    "nash",
    "nash_price",
    "nash_transfer",
    "parse_prior",
    "parse_rule",
    "posted",
    "split",
]
