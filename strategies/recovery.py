"""Recovery: a market continues from its last checkpoint after a crash."""

from dataclasses import replace

from fl_market.broker import Broker
from fl_market.errors import MarketError
from fl_market.market import settlement
from fl_market.market.outcome import Outcome
from fl_market.timing import timed
from strategies.checkpoints import Checkpoint, Checkpoints
from strategies.history import History


class Recovery:
    """Writes a checkpoint of the market after each round, and restores the last one.

    Parameters
    ----------
    broker, history
        The market and the agents' metrics.
    checkpoints
        The files; None for no checkpoints.
    """

    def __init__(self, broker: Broker, history: History, checkpoints: Checkpoints | None) -> None:
        self._broker, self._history, self._checkpoints = broker, history, checkpoints

    @property
    def possible(self) -> bool:
        """Whether rounds are kept."""
        return self._checkpoints is not None

    @timed("checkpoints")
    def keep(self, outcome: Outcome | None = None) -> None:
        """Write a checkpoint of the market, with the decision on its last round before booking.

        Raises
        ------
        MarketError
            If it cannot be written.
        """
        if self._checkpoints is not None:
            decided = outcome or Outcome((), (), self._broker.state)
            self._checkpoints.write(Checkpoint(decided, self._history.as_json(), self._broker.ledger.position()))

    def resume(self, checkpoint: Checkpoint) -> int:
        """Restore the market, and return the number of its last round.

        The checkpoint's decisions are booked, and open deals of a lost round are ended.

        Raises
        ------
        MarketError
            If the checkpoint belongs to another ledger.
        """
        ledger, decided = self._broker.ledger, checkpoint.outcome
        if not ledger.holds(checkpoint.ledger):
            raise MarketError(
                f"the checkpoint of round {decided.state.round} belongs to another ledger: "
                f"this one lacks its entry {checkpoint.ledger[0]}"
            )
        self._history.restore(checkpoint.history)
        self._broker.restore(decided.state)
        settlement.apply(ledger, decided)
        settlement.end_open_deals(ledger, self._broker.state.runs)
        # after a crash right now, the next run must still know this run's deals
        self.keep(replace(decided, state=self._broker.state))
        return decided.state.round
