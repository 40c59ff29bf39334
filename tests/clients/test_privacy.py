"""Local differential privacy: the parameters that an agent gives away."""

import numpy as np
import pytest
import torch

from fl_market.errors import MarketError
from fl_market.local_privacy import LocalPrivacy, parse_local_privacy
from fl_market.parameters import digest
from tests.played import EVALUATE, TRAIN, configured, play, settled

pytestmark = pytest.mark.flower

NOISE = "gaussian(5.0, 0.00001, 8, 0.00001)"
DEVIATION = 0.00001 * np.sqrt(2 * np.log(1.25 / 0.00001)) / 8


def test_invalid_texts_of_local_privacy():
    assert parse_local_privacy("") is None
    assert parse_local_privacy(" gaussian(1, 0.5, 8, 1e-5)") == LocalPrivacy(1, 0.5, 8, 1e-5)
    for text in ("laplace(1, 1)", "gaussian(1, 1, 1)", "gaussian(1, 1, 0, 0.1)", "gaussian(1, 1, 1, 2)", "gaussian(a)"):
        with pytest.raises(MarketError, match="local privacy"):
            parse_local_privacy(text)
    with pytest.raises(MarketError, match="validation-samples must be 0 with local-privacy"):
        configured(local_privacy=NOISE, validation_samples=10)


def test_the_broker_gets_noisy_parameters_and_the_agent_keeps_its_own():
    """Only A wants privacy; the market goes on, and A receives nothing but its purchases."""
    held = {}

    def look(name, message, reply):
        if name == "A":
            context = held["grid"].contexts[1000] if "grid" in held else None
            held[message.metadata.message_type, message.metadata.group_id] = context, reply
        return reply

    _, grid, ledger = play(look, node_config={1000: {"local-privacy": NOISE}}, num_server_rounds=4)
    assert {agent for _, agent in settled(ledger)} == {"A", "B"}
    for agent, message, reply in grid.seen:
        if message.metadata.message_type == TRAIN:
            given = reply.content["arrays"].to_torch_state_dict()
            own = reply.content["acknowledgement"]["model-digest"]
            assert (digest(given) == own) == (agent == "B")
        if message.metadata.message_type == EVALUATE and agent == "A":
            assert not message.content.array_records
            assert ("key" in message.content) == ("receipts" in message.content and bought(message))


@pytest.mark.parametrize("lost", [TRAIN, EVALUATE])
def test_a_lost_answer_leaves_an_agent_its_exact_model(lost):
    """The broker sends back the noisy copy that it knows, and no trade changes the model."""

    def lose(name, message, reply):
        is_lost = name == "A" and message.metadata.message_type == lost and message.metadata.group_id == "2"
        return None if is_lost else reply

    def curve(tamper):
        options = {"num_server_rounds": 4, "first_round": 9, "node_config": {1000: {"local-privacy": NOISE}}}
        strategy, grid, _ = play(tamper, **options)
        sent_back = [m for m in grid.sent(TRAIN, "A") if "arrays" in m.content and m.metadata.group_id == "3"]
        return strategy.history.results["A"][-1], len(sent_back)

    without, none = curve(None)
    with_loss, one = curve(lose)
    assert (none, one) == (0, 1)
    assert with_loss == without


def bought(message):
    return "bought" in message.content["receipts"]["side"]


def test_the_noise_has_the_stated_deviation_and_is_unpredictable():
    def given(**private):
        _, grid, _ = play(node_config={1000: private}, strategy="market", num_server_rounds=1)
        (reply,) = [r for agent, m, r in grid.seen if agent == "A" and m.metadata.message_type == TRAIN]
        return torch.cat([tensor.flatten() for tensor in reply.content["arrays"].to_torch_state_dict().values()])

    exact, first, second = given(), given(**{"local-privacy": NOISE}), given(**{"local-privacy": NOISE})
    for noisy in (first, second):
        assert float((noisy - exact).double().std()) == pytest.approx(DEVIATION, rel=0.05)
    assert not torch.equal(first, second), "every agent knows the seed: noise must not depend on it"


def test_updates_are_clipped():
    def given(text):
        _, grid, _ = play(node_config={1000: {"local-privacy": text}}, strategy="market", num_server_rounds=2)
        states = [
            torch.cat([tensor.flatten() for tensor in r.content["arrays"].to_torch_state_dict().values()])
            for agent, m, r in grid.seen
            if agent == "A" and m.metadata.message_type == TRAIN
        ]
        return float((states[1] - states[0]).norm())

    assert given("gaussian(0.01, 1e-9, 8, 0.00001)") < 0.1 < given("gaussian(100, 1e-9, 8, 0.00001)")
