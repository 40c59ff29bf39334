"""The agents on Flower's client side: they train, decide whether to buy, and value what they sell."""
