"""Runs of a market: engines that start Flower, the in-process grid, comparisons of arms."""
