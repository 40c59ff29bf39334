"""Flower's client side: agents that train, bid for offers and ask for their parameters."""
