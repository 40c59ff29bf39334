"""The public name of the broker; its room is :mod:`fl_market.market`."""

from fl_market.market.broker import Broker
from fl_market.market.terms import Terms
from fl_market.market.trials import Trial

__all__ = ["Broker", "Terms", "Trial"]
