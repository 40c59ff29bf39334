"""The market's core: one trading round as a sequence of pure steps, and the settlement of its deals."""
