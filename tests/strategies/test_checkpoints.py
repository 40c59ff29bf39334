"""Checkpoints hold all on which the next round depends."""

import pytest
import torch

from fl_market.errors import MarketError
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


def state_of(market_round, **levels):
    return MarketState(round=market_round, models={agent: model(level) for agent, level in levels.items()})


def written(checkpoints, state):
    checkpoints.write(Checkpoint(Outcome((), (), state), {}, (0, "")))


def test_a_model_is_written_once_and_goes_with_the_last_checkpoint_that_has_it(tmp_path):
    checkpoints, counts = Checkpoints(tmp_path, kept=2), []
    for market_round, level in enumerate((1.0, 1.0, 2.0, 2.0, 3.0)):
        written(checkpoints, state_of(market_round, A=level, B=9.0))
        counts.append(len(list(checkpoints.models.folder.iterdir())))
    assert counts == [2, 2, 3, 2, 3], "the changing model and the constant one, of the last two rounds"
    assert Checkpoints(tmp_path).last().outcome.state.models["A"]["a.weight"][0, 0] == 3.0


def test_an_older_checkpoint_that_cannot_be_read_costs_no_model(tmp_path):
    checkpoints = Checkpoints(tmp_path, kept=2)
    written(checkpoints, state_of(1, A=1.0))
    (tmp_path / "round-000001" / "state.json").write_text("")
    written(checkpoints, state_of(2, A=2.0))
    assert len(list(checkpoints.models.folder.iterdir())) == 2


def test_a_damaged_model_is_told(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    written(checkpoints, state_of(1, A=1.0))
    (path,) = checkpoints.models.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(MarketError, match=r"the model .* is damaged"):
        checkpoints.last()
