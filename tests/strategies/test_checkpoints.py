"""Checkpoints hold all on which the next round depends."""

import torch

from fl_market.gains import Counted, ErrorBudget
from fl_market.market.outcome import Outcome
from fl_market.market.state import MarketState
from strategies.checkpoints import Checkpoint, Checkpoints


def model(level):
    return {"a.weight": torch.full((2, 3), level), "a.bias": torch.arange(3.0) + level}


def test_progress_and_budget_come_back(tmp_path):
    state = MarketState(
        round=4,
        models={"A": model(1.0), "B": model(2.0)},
        best={"A": model(0.5)},
        budget=ErrorBudget(0.1).after(Counted(3, 2), Counted(4, 1), 0.3),
        pseudonyms={"A": "agent-1", "B": "agent-2"},
        runs=["run"],
    )
    Checkpoints(tmp_path).write(Checkpoint(Outcome(("x",), ("y",), state), {}, (3, "hash")))
    found = Checkpoints(tmp_path).last().outcome
    assert (found.settled, found.refunded) == (("x",), ("y",))
    assert found.state.budget == state.budget
    for kind in ("models", "best"):
        kept, read = getattr(state, kind), getattr(found.state, kind)
        assert set(read) == set(kept)
        for agent, tensors in kept.items():
            assert set(read[agent]) == set(tensors)
            assert all(torch.equal(read[agent][name], tensor) for name, tensor in tensors.items())
