import pytest
import torch
from flwr.app import ArrayRecord, Context, RecordDict
from torch import nn

from clients.agent_disk import AgentDisk
from clients.agent_state import GIVEN_KEPT, AgentState
from clients.quote_history import QuoteHistory
from fl_market.errors import MarketError
from fl_market.parameters import digest
from fl_market.protocol import Ask, Receipt

MODEL, OTHER = {"w": torch.ones(2)}, {"w": torch.zeros(2)}
BOUGHT, SOLD = Receipt("1/x", "bought", "x", 70), Receipt("1/y", "sold", "y", 20)


@pytest.fixture
def context():
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


@pytest.fixture
def state(context):
    return AgentState(context)


def momentum():
    """The state of an optimiser that remembers one gradient of ones."""
    parameter = nn.Parameter(torch.ones(3))
    optimiser = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()
    optimiser.step()
    return optimiser.state_dict()


def test_a_new_agent_remembers_nothing(state):
    assert not state.has_model
    assert state.model_digest == ""
    with pytest.raises(MarketError, match="no model yet"):
        state.model  # noqa: B018
    assert (state.optimiser, state.shares, state.known_to_broker) == (None, None, None)
    assert (state.spent, state.receipted, state.given_away) == (0, {}, [])
    assert state.quotes == QuoteHistory()


def test_the_outcome_of_training_is_there_for_the_next_message(context, state):
    state.keep_training(MODEL, momentum())
    later = AgentState(context)
    assert torch.equal(later.model["w"], MODEL["w"])
    assert later.model_digest == digest(MODEL)
    assert torch.equal(later.optimiser["state"][0]["momentum_buffer"], torch.ones(3))


def test_another_model_starts_with_another_optimiser(state):
    state.keep_training(MODEL, momentum())
    state.replace_model(OTHER)
    assert state.model_digest == digest(OTHER)
    assert state.optimiser is None


def test_purchases_add_up_and_sales_do_not_count(state):
    state.note_purchases([BOUGHT, SOLD])
    state.note_purchases([Receipt("2/x", "bought", "x", 5)])
    assert state.spent == 75
    assert state.receipted == {"1/x": 70, "2/x": 5}


def test_the_broker_knows_the_last_copy_until_a_delivery(state):
    copies = [ArrayRecord({"w": torch.full((2,), float(number))}) for number in range(GIVEN_KEPT + 1)]
    state.keep_training(MODEL, momentum())
    for copy in copies:
        state.give_away(copy)
    assert state.known_to_broker == copies[-1]
    assert state.given_away == [digest(copy.to_torch_state_dict()) for copy in copies[1:]]
    state.take_delivery(OTHER)
    assert torch.equal(state.known_to_broker.to_torch_state_dict()["w"], OTHER["w"])
    assert state.given_away == []


def test_an_agent_that_gives_away_its_exact_model_notes_no_copy(state):
    state.take_delivery(MODEL)
    assert state.known_to_broker is None


def test_shares_keep_their_order(state):
    state.shares = [torch.full((1,), float(number)) for number in range(12)]
    assert [float(share) for share in state.shares] == list(range(12))


def test_the_disk_gives_back_all_but_parameters(context, state, tmp_path):
    disk = AgentDisk(tmp_path)
    state.keep_training(MODEL, momentum())
    state.note_purchases([BOUGHT])
    state.quotes = QuoteHistory().with_asks([Ask("1/y", 10)]).resolved([SOLD])
    state.give_away(ArrayRecord(OTHER))
    state.save(disk, run=7, market_round=1)

    fresh = AgentState(Context(run_id=2, node_id=1, node_config={}, state=RecordDict(), run_config={}))
    fresh.take_delivery(OTHER)
    fresh.restore(disk)
    assert (fresh.spent, fresh.optimiser) == (0, None), "it was kept beside another model"
    fresh.take_delivery(MODEL)
    fresh.restore(disk)
    assert torch.equal(fresh.optimiser["state"][0]["momentum_buffer"], torch.ones(3))
    assert (fresh.spent, fresh.receipted) == (70, {"1/x": 70})
    assert fresh.quotes == state.quotes
    assert fresh.given_away == state.given_away


def test_the_names_of_the_records_are_those_of_earlier_releases(context, state):
    """A node's state and an agent's disk outlive the release that wrote them."""
    state.keep_training(MODEL, momentum())
    state.note_purchases([BOUGHT])
    state.quotes = QuoteHistory().with_asks([Ask("1/y", 10)])
    state.shares = [torch.ones(1)]
    state.give_away(ArrayRecord(OTHER))
    assert set(context.state) == {
        "model", "optimiser", "bought", "quotes", "adaptive-shares", "known-to-the-broker", "given-away",
    }  # fmt: skip
    assert dict(context.state["bought"]) == {"micro-credits": 70, "deals": ["1/x"], "prices": [70]}
    assert set(context.state["quotes"]) == {"quote", "ask", "price"}
    assert set(context.state["optimiser"]) == {"state"}
    assert set(context.state["given-away"]) == {"digests"}
