"""The market's core: the steps of one trading round, and the settlement of its deals."""
