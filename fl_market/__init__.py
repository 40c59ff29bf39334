"""fl-market: a Flower extension in which models are traded.

Agents train alone and buy parts of each other's models through a trusted broker, as in *Train 'n
Trade: Foundations of Parameter Markets* (Huang, Vishwakarma and Sala, 2023). This package is the
market itself: tensors and numbers in, frozen dataclasses out. Only ``fl_market.runner``
imports Flower, to start it.
"""

__version__ = "0.1.0"
