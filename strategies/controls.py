"""Controls: arms that have all but the market.

Each takes one part of the market away, so that a table shows what the rest is worth: the seller
(``siloed-tuned``), the agents (``broker-only``), the labels (``fedavg-matched``), and the seller's
training (``market-placebo``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fl_market.broker import Broker
from fl_market.gains import Objective
from fl_market.market.fine_tuning import fine_tuned
from fl_market.market.outcome import Acknowledgement, Exchange, Outcome, SealedDelivery
from fl_market.parameters import StateDict
from strategies.free_exchange import FreeExchange
from strategies.market import ParameterMarket


@dataclass(frozen=True)
class Tuning:
    """Gradient steps of the broker on its fit split, as many as ``market-fine`` takes.

    Attributes
    ----------
    steps, learning_rate
        Adam's.
    batch_size
        Samples of each step; 0 for all.
    """

    steps: int
    learning_rate: float
    batch_size: int = 0


class SiloedTuned(ParameterMarket):
    """Siloed agents whose models the broker fine-tunes, gated by held-out samples; no seller."""

    def __init__(self, broker: Broker, *, tuning: Tuning, **market: Any) -> None:
        super().__init__(broker, **market)
        self._tuning = tuning

    def exchange(self, market_round: int, models: Mapping[str, StateDict]) -> Exchange:
        """Fine-tune each agent's model by its own objective."""
        state = self.broker.open_round(models, market_round, trades=False).state
        tuned: dict[str, StateDict] = {}
        if self.trades_in(market_round):
            for agent, own in models.items():
                found = self.tuned(own, self.broker.objective_of(agent))
                if found is not own:
                    tuned[agent] = found
        return FreeExchange.after(state, market_round, tuned, models)

    def tuned(self, state: StateDict, objective: Objective) -> StateDict:
        """Return a model after the broker's steps, if they gain on held-out samples."""
        return fine_tuned(
            state,
            objective,
            steps=self._tuning.steps,
            learning_rate=self._tuning.learning_rate,
            batch_size=self._tuning.batch_size,
            hardware=self.broker.hardware,
        )


class BrokerOnly(SiloedTuned):
    """The broker's data alone: one model that never sees an agent's, fine-tuned in every round."""

    def exchange(self, market_round: int, models: Mapping[str, StateDict]) -> Exchange:
        """Send every agent the broker's model, trained on the broker's data only."""
        known = self.broker.state.models
        model = self.tuned(known[min(known)] if known else self.common, self.broker.objective_of())
        state = self.broker.open_round(models, market_round, trades=False).state
        return FreeExchange.after(state, market_round, dict.fromkeys(models, model), models)


class MatchedAveraging(ParameterMarket):
    """Averages of independent models, aligned and repaired, without the broker's labels."""

    def exchange(self, market_round: int, models: Mapping[str, StateDict]) -> Exchange:
        """Send every agent the matched average."""
        state = self.broker.open_round(models, market_round, trades=False).state
        merged: dict[str, StateDict] = {}
        if self.trades_in(market_round) and len(models) > 1:
            merged = dict.fromkeys(models, self.broker.matched_average(models))
        return FreeExchange.after(state, market_round, merged, models)


class PlaceboMarket(ParameterMarket):
    """A market whose last agent offers an untrained network, and buys nothing.

    Purchases from that seller show what a certificate lets through.
    """

    def __init__(self, broker: Broker, *, untrained: Callable[[], StateDict], **market: Any) -> None:
        super().__init__(broker, **market)
        self._untrained = untrained

    def exchange(self, market_round: int, models: Mapping[str, StateDict]) -> Exchange:
        """Trade with the untrained network as the last agent's parameters."""
        if not models:
            return super().exchange(market_round, models)
        seller = max(models)
        return KeptModel(super().exchange(market_round, {**models, seller: self._untrained()}), seller, models[seller])

    def may_buy(self, agent: str) -> bool:
        """Return whether an agent is told its offers: every one except the placebo's seller."""
        return agent != max(self.seats.names)


@dataclass(frozen=True)
class KeptModel:
    """An exchange after which one agent has the model that it trained, whatever it offered.

    Attributes
    ----------
    inner
        The exchange.
    agent, model
        The agent and its model.
    """

    inner: Exchange
    agent: str
    model: StateDict

    @property
    def agreed(self) -> Any:
        """The deals of the round."""
        return self.inner.agreed

    def deliver(self) -> Mapping[str, SealedDelivery]:
        """Return the sealed purchase of each buyer of the round."""
        return self.inner.deliver()

    def conclude(self, acknowledgements: Mapping[str, Acknowledgement | None]) -> Outcome:
        """Return the outcome with the agent's own model."""
        outcome = self.inner.conclude(acknowledgements)
        return replace(outcome, state=outcome.state.with_models({self.agent: self.model}))
