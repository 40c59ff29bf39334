"""Running a market: the engines that start Flower, the in-process grid, and comparisons of arms."""
