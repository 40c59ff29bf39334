"""fl-market: a Flower extension in which models are traded.

Agents train alone and buy parts of each other's models from a trusted broker, as in *Train 'n Trade:
Foundations of Parameter Markets* (Huang, Vishwakarma and Sala, 2023). This package is the market itself:
tensors and numbers in, frozen dataclasses out. It never imports Flower, except to start it from
``fl_market.cli`` and ``fl_market.experiments``.
"""

__version__ = "0.1.0"
