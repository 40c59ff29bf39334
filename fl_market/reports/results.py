"""Results of an arm as data, and as the JSON that ``results.json`` holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fl_market.ledger import Deal, DealState


@dataclass(frozen=True)
class RoundReport:
    """One line of progress."""

    arm: str
    round: int
    rounds: int
    deals: int
    accuracy: float


@dataclass(frozen=True)
class RoundResult:
    """An agent's test metrics after one round; the last is the accuracy on its own target distribution of classes."""

    round: int
    test_accuracy: float
    test_loss: float
    target_accuracy: float


@dataclass(frozen=True)
class AgentResult:
    """An agent's learning curve and account (micro-credits)."""

    rounds: tuple[RoundResult, ...]
    paid: int = 0
    earned: int = 0
    balance: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return plain types; the final metrics are those of the last round that the agent finished."""
        last = self.rounds[-1] if self.rounds else None
        return {
            "test_accuracy": last.test_accuracy if last else None,
            "test_loss": last.test_loss if last else None,
            "target_accuracy": last.target_accuracy if last else None,
            "paid": self.paid,
            "earned": self.earned,
            "balance": self.balance,
            "rounds": [vars(result) for result in self.rounds],
        }


@dataclass(frozen=True)
class ArmResult:
    """All that one arm of a comparison produced.

    Attributes
    ----------
    arm
        Its name.
    initialisation
        ``"common"`` or ``"independent"``.
    trading_from
        First round in which models are exchanged; None where they never are.
    agents
        Name -> result.
    deals
        Settled deals.
    offers
        Purchases that were tried: the number of chances to buy.
    trades
        Every deal with its final state, in the order of the ledger.
    seconds
        Wall time of the rounds.
    """

    arm: str
    initialisation: str
    trading_from: int | None
    agents: dict[str, AgentResult]
    deals: int = 0
    offers: int = 0
    trades: Sequence[tuple[Deal, DealState]] = ()
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return plain types; all but ``seconds`` depend on the configuration alone."""
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
        }
