"""An agent's memory between two messages.

It is kept in Flower's ``Context.state``, which never leaves the node, and copied to the agent's own
disk if it has one. The names of the records are part of both formats.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Context

from clients.agent_disk import AgentDisk
from clients.quote_history import QuoteHistory
from fl_market.errors import MarketError
from fl_market.protocol import Receipt

if TYPE_CHECKING:  # most messages need no PyTorch: see client_app.py
    from torch import Tensor

    from fl_market.parameters import StateDict

MODEL, OPTIMISER, SHARES = "model", "optimiser", "adaptive-shares"
PURCHASES, QUOTES, SEALED = "bought", "quotes", "sealed"
KNOWN, GIVEN = "known-to-the-broker", "given-away"
GIVEN_KEPT = 3
"""Digests of copies given away that are kept: a broker may send back any of the last ones."""


class AgentState:
    """One agent's memory.

    Each property reads Flower's records anew, and each change is written to them at once.

    Parameters
    ----------
    context
        Flower's context of the agent's node.
    """

    def __init__(self, context: Context) -> None:
        self._records = context.state

    # -- the model and its training

    @property
    def has_model(self) -> bool:
        """Whether the agent has a model yet."""
        return MODEL in self._records

    @property
    def arrays(self) -> ArrayRecord:
        """The model as messages carry it.

        Raises
        ------
        MarketError
            If the agent has none yet.
        """
        if not self.has_model:
            raise MarketError("the agent has no model yet")
        return self._records.array_records[MODEL]

    @property
    def model(self) -> "StateDict":
        """The model's state dict.

        Raises
        ------
        MarketError
            If the agent has none yet.
        """
        return self.arrays.to_torch_state_dict()

    @property
    def model_digest(self) -> str:
        """SHA-256 of the model; empty if there is none."""
        return _digest(self.model) if self.has_model else ""

    @property
    def optimiser(self) -> dict[str, Any] | None:
        """The optimiser's state dict; None if training starts afresh."""
        if OPTIMISER not in self._records:
            return None
        import torch

        packed: Any = self._records.config_records[OPTIMISER]["state"]
        return dict(torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True))

    def keep_training(self, model: "StateDict", optimiser: Mapping[str, Any]) -> None:
        """Keep the outcome of local training: the model, and the optimiser's state dict."""
        import torch

        self._records[MODEL] = _arrays(model)
        buffer = io.BytesIO()
        torch.save(dict(optimiser), buffer)
        self._records[OPTIMISER] = ConfigRecord({"state": buffer.getvalue()})

    def replace_model(self, model: "StateDict") -> None:
        """Hold another model; its optimiser starts afresh."""
        self._records[MODEL] = _arrays(model)
        if OPTIMISER in self._records:
            del self._records[OPTIMISER]

    def take_delivery(self, model: "StateDict") -> None:
        """Hold a model that the broker sent, and therefore knows exactly."""
        self.replace_model(model)
        if KNOWN in self._records:
            self._records[KNOWN] = self._records.array_records[MODEL]
            self._records[GIVEN] = ConfigRecord({"digests": []})

    @property
    def shares(self) -> "list[Tensor] | None":
        """FedALA's weights of the global parameters; None before the first round."""
        known = self._records.array_records.get(SHARES)
        return None if known is None else list(known.to_torch_state_dict().values())

    @shares.setter
    def shares(self, shares: "Sequence[Tensor]") -> None:
        self._records[SHARES] = ArrayRecord({str(place): share for place, share in enumerate(shares)})

    # -- trades

    @property
    def sealed(self) -> ArrayRecord | None:
        """The sealed purchase whose key is awaited; None without one."""
        return self._records.array_records.get(SEALED)

    @sealed.setter
    def sealed(self, sealed: ArrayRecord | None) -> None:
        if sealed is not None:
            self._records[SEALED] = sealed
        elif SEALED in self._records:
            del self._records[SEALED]

    @property
    def spent(self) -> int:
        """Micro-credits spent since the node started."""
        return int(self._purchases.get("micro-credits", 0))

    @property
    def receipted(self) -> dict[str, int]:
        """Deal -> price in micro-credits, of all purchases since the node started."""
        return dict(zip(self._purchases.get("deals", []), self._purchases.get("prices", []), strict=True))

    def note_purchases(self, receipts: Sequence[Receipt]) -> None:
        """Add the purchases among the receipts."""
        known = self.receipted  # a receipt may come again
        bought = [receipt for receipt in receipts if receipt.side == "bought" and receipt.deal not in known]
        spent = self.spent + sum(receipt.price for receipt in bought)
        prices = known | {receipt.deal: receipt.price for receipt in bought}
        self._records[PURCHASES] = ConfigRecord(
            {"micro-credits": spent, "deals": list(prices), "prices": list(prices.values())}
        )

    @property
    def quotes(self) -> QuoteHistory:
        """The agent's last quotes and their outcomes."""
        stored: Mapping[str, Any] = self._records.config_records.get(QUOTES, {})
        return QuoteHistory(*(tuple(stored.get(name, ())) for name in ("quote", "ask", "price")))

    @quotes.setter
    def quotes(self, history: QuoteHistory) -> None:
        self._records[QUOTES] = ConfigRecord(
            {"quote": list(history.quotes), "ask": list(history.asks), "price": list(history.prices)}
        )

    # -- local privacy: the broker knows other parameters than the agent's own

    @property
    def known_to_broker(self) -> ArrayRecord | None:
        """The parameters that the broker knows; None unless the agent gives away noisy copies."""
        return self._records.array_records.get(KNOWN)

    @known_to_broker.setter
    def known_to_broker(self, arrays: ArrayRecord) -> None:
        self._records[KNOWN] = arrays

    @property
    def given_away(self) -> list[str]:
        """SHA-256 of the last noisy copies of the model, since the last purchase."""
        record: Mapping[str, Any] = self._records.config_records.get(GIVEN, {})
        return list(record.get("digests", []))

    def give_away(self, copy: ArrayRecord) -> None:
        """Note that the broker gets a noisy copy of the model."""
        digests = [*self.given_away, _digest(copy.to_torch_state_dict())]
        self.known_to_broker = copy
        self._records[GIVEN] = ConfigRecord({"digests": digests[-GIVEN_KEPT:]})

    # -- the agent's disk

    def save(self, disk: AgentDisk, run: int, market_round: int) -> None:
        """Write the model to the agent's disk, and the rest of its memory but for other parameters.

        Raises
        ------
        MarketError
            If the disk cannot be written.
        """
        model = self.model
        disk.save_memory(self._records.config_records, _digest(model))
        disk.save_model(model, run, market_round)

    def restore(self, disk: AgentDisk) -> None:
        """Restore the memory that the disk holds beside the agent's current model.

        Raises
        ------
        MarketError
            If the file is damaged.
        """
        for name, record in disk.memory_beside(self.model_digest).items():
            self._records[name] = record

    @property
    def _purchases(self) -> Mapping[str, Any]:
        return self._records.config_records.get(PURCHASES, {})


def _digest(model: "StateDict") -> str:
    from fl_market.parameters import digest

    return digest(model)


def _arrays(state: "StateDict") -> ArrayRecord:
    return ArrayRecord({name: tensor.cpu() for name, tensor in state.items()})
