"""Results of an arm as data, and as the JSON that ``results.json`` holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from fl_market.errors import MarketError
from fl_market.ledger import Deal, DealState


@dataclass(frozen=True)
class RoundReport:
    """One line of progress; the accuracy is the mean of all agents', and failures are replies."""

    arm: str
    round: int
    rounds: int
    deals: int
    accuracy: float
    failures: int = 0


@dataclass(frozen=True)
class RoundResult:
    """An agent's test metrics after one round.

    ``target_accuracy`` is the accuracy on the agent's own target distribution of classes.
    """

    round: int
    test_accuracy: float
    test_loss: float
    target_accuracy: float


@dataclass(frozen=True)
class AgentResult:
    """An agent's learning curve, the rounds that it finished, and its account (micro-credits).

    Attributes
    ----------
    rounds
        Test metrics, round by round.
    rounds_finished
        Number of rounds in which it trained, and answered the evaluation message if there was one.
    failed_replies
        Number of its replies that failed or were refused, in any exchange.
    paid, earned, balance
        Prices of its settled purchases and sales, and its account at the end.
    broker_loss, broker_accuracy
        Mean loss and accuracy of its final model on the broker's certify split, under its own
        objective, for the selection of learning rates; None if the server does not know the model.
    """

    rounds: tuple[RoundResult, ...]
    rounds_finished: int = 0
    failed_replies: int = 0
    paid: int = 0
    earned: int = 0
    balance: int = 0
    broker_loss: float | None = None
    broker_accuracy: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain types; the final metrics are those of the agent's last test."""
        last = self.rounds[-1] if self.rounds else None
        return {
            "test_accuracy": last.test_accuracy if last else None,
            "test_loss": last.test_loss if last else None,
            "target_accuracy": last.target_accuracy if last else None,
            "rounds_finished": self.rounds_finished,
            "failed_replies": self.failed_replies,
            "paid": self.paid,
            "earned": self.earned,
            "balance": self.balance,
            "broker_loss": self.broker_loss,
            "broker_accuracy": self.broker_accuracy,
            "rounds": [vars(result) for result in self.rounds],
        }


@dataclass(frozen=True)
class ArmResult:
    """Everything that one arm of a comparison produced.

    Attributes
    ----------
    arm
        Its name.
    initialisation
        ``"common"`` or ``"independent"``.
    trading_from
        First round in which models are exchanged; None for never.
    agents
        Name -> result.
    rounds
        Number of rounds of the run.
    deals
        Settled deals.
    offers
        Offers that were evaluated: purchases of one seller's parameters, merged and certified.
    trades
        Every deal with its final state, in the order of the ledger.
    seconds
        Wall time of the rounds.
    timings
        Part of the code -> its seconds and calls, if they were measured.
    """

    arm: str
    initialisation: str
    trading_from: int | None
    agents: dict[str, AgentResult]
    rounds: int = 0
    deals: int = 0
    offers: int = 0
    trades: Sequence[tuple[Deal, DealState]] = ()
    seconds: float = 0.0
    timings: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every agent finished every round, without a failed reply."""
        return all(agent.rounds_finished >= self.rounds and not agent.failed_replies for agent in self.agents.values())

    def as_json(self) -> dict[str, Any]:
        """Return plain types; everything but the times depends on the configuration alone."""
        measured = {
            part: {"seconds": round(seconds, 3), "calls": calls} for part, (seconds, calls) in self.timings.items()
        }
        return {
            "initialisation": self.initialisation,
            "trading_from": self.trading_from,
            "agents": {name: agent.as_json() for name, agent in self.agents.items()},
            "deals": self.deals,
            "offers": self.offers,
            "trades": [
                {
                    "round": deal.round,
                    "buyer": deal.buyer,
                    "seller": deal.seller,
                    "bid": deal.bid,
                    "ask": deal.ask,
                    "price": deal.price,
                    "gain": deal.gain,
                    "lower_bound": deal.lower_bound,
                    "alpha": deal.alpha,
                    "state": str(state),
                }
                for deal, state in self.trades
            ],
            "seconds": round(self.seconds, 3),
            **({"timings": measured} if measured else {}),
        }


class UnfinishedRunError(MarketError):
    """Some agent finished no round of an arm.

    Attributes
    ----------
    result
        The arm's result, with what the other agents did.
    """

    def __init__(self, message: str, result: ArmResult) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[type[Self], tuple[str, ArmResult]]:
        """Let the error pass from one process to another."""
        return type(self), (str(self), self.result)


def check_finished(result: ArmResult, reasons: Mapping[str | int, str]) -> None:
    """Raise unless every agent finished at least one round of an arm, and was tested at least once.

    Parameters
    ----------
    result
        The arm's result.
    reasons
        Agent -> reason of its last failure; for an unknown agent, the key is the id of its node.

    Raises
    ------
    UnfinishedRunError
        With one sentence that names the agents, and the last reason.
    """
    absent = [name for name, agent in result.agents.items() if not (agent.rounds_finished and agent.rounds)]
    if absent:
        agents = f"agent {absent[0]}" if len(absent) == 1 else f"agents {', '.join(absent)}"
        # an agent that never said its name failed at a node without one
        failures = [reason for agent, reason in reasons.items() if agent in absent or isinstance(agent, int)]
        reason = failures[-1] if failures else "no answer"
        raise UnfinishedRunError(f"{agents} finished no round of {result.arm}; the last failure: {reason}", result)
