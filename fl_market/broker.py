"""The public names of the broker, which is implemented in :mod:`fl_market.market`."""

from fl_market.market.broker import Broker
from fl_market.market.terms import Terms
from fl_market.market.trials import Trial

__all__ = ["Broker", "Terms", "Trial"]
