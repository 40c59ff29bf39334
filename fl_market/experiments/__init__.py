"""Runs of whole markets: engines that start Flower, comparisons, and the paper's tables and figures."""
