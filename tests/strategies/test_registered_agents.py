"""Seats by registered keys: at the beginning of a run, in its middle, and after a resume."""

import logging

import pytest
from flwr.app import ArrayRecord, ConfigRecord
from flwr.proto.node_pb2 import NodeInfo

from fl_market.errors import MarketError
from fl_market.ledger import Ledger
from fl_market.registry import Registry, fingerprint
from fl_market.run_folder import AGENTS
from fl_market.settings import RunSettings
from strategies.arms import ARMS, Setting
from strategies.history import History
from strategies.patience import patient
from strategies.server_app import _registry
from tests.played import SpiedGrid, changed, configured
from tests.test_registry import made

pytestmark = pytest.mark.flower

KEYS = [made()[1] for _ in range(3)]
REGISTRY = Registry({"A": fingerprint(KEYS[0]), "B": fingerprint(KEYS[1])})


class Authenticated(SpiedGrid):
    """A grid whose nodes authenticate with these keys, in the order of the nodes."""

    keys = KEYS

    def get_nodes(self):
        return [NodeInfo(node_id=node, public_key=key) for node, key in zip(self.contexts, self.keys, strict=False)]


def play(tamper=None, keys=KEYS, ledger=None, registry=REGISTRY, **options):
    configuration = configured(**options)
    grid, ledger = Authenticated(configuration, tamper), ledger or funded()
    grid.keys = keys
    history = History("market-priced", configuration.run.num_server_rounds)
    setting = Setting(configuration, configuration.load_task(), history, ledger, registry=registry)
    strategy = ARMS["market-priced"].build(setting)
    common = ArrayRecord(configuration.load_task().initial_model(0).state_dict())
    strategy.start(grid=grid, initial_arrays=common, num_rounds=configuration.run.num_server_rounds)
    return strategy, ledger


def funded(registry=REGISTRY):
    ledger = Ledger.open()
    for name, key in registry.keys.items():
        ledger.open_account(name, 0, key)
        ledger.fund(name, 100_000_000)
    return ledger


def test_registered_agents_trade_with_what_the_operator_gave_them():
    strategy, ledger = play()
    assert strategy.seats.names == {"A", "B"}
    assert ledger.deals()
    assert ledger.verify() == []
    assert sum(ledger.balances()[name] for name in "AB") == 200_000_000


def test_a_new_name_is_no_new_endowment(caplog):
    """C's key is not registered: before, each run under a new name brought a hundred credits."""
    with caplog.at_level(logging.WARNING, "fl_market"):
        strategy, ledger = play(agents=3, partition="dirichlet(0.5)")
    assert strategy.seats.names == {"A", "B"}
    assert "C" not in ledger.balances()
    assert "it claims to be agent C, which is not registered" in caplog.text


def test_a_registered_agent_without_funds_has_none():
    _, ledger = play(ledger=Ledger.open(), num_server_rounds=1)
    assert ledger.balance("A") == ledger.balance("B") == 0


@pytest.mark.parametrize("from_round", [1, 3])
def test_a_name_is_not_squatted_by_another_key(caplog, from_round):
    """The third node says from some round on that it is B, whose own node is silent."""

    def tamper(name, message, reply):
        if name == "B":
            return None
        if name == "C" and message.metadata.message_type == "train" and int(message.metadata.group_id) >= from_round:
            return changed(reply, agent=ConfigRecord({"name": "B"}))
        return reply

    with caplog.at_level(logging.WARNING, "fl_market"):
        strategy, _ = play(tamper, agents=3, partition="dirichlet(0.5)")
    assert strategy.seats.names == {"A"}
    assert "it claims to be agent B, whose registered key is another" in caplog.text


def test_a_seat_is_not_stolen_on_resume(caplog):
    """The nodes say their names anew; two swap them, and would get each other's models."""
    strategy, _ = play()
    swapped = [KEYS[1], KEYS[0]]
    configuration = configured()
    grid = Authenticated(configuration)
    grid.keys = swapped
    strategy.seats._by_node.clear()
    with caplog.at_level(logging.WARNING, "fl_market"):
        nodes = strategy._admission.nodes(grid, 4, resumable=True)
    assert nodes == []
    assert strategy.seats.names == set()
    assert caplog.text.count("whose registered key is another") == 2


def test_a_revoked_key_loses_its_seat_and_an_account_stays_with_its_key():
    _, ledger = play()
    before = ledger.balances()
    revoked = REGISTRY.without("B").with_agent("C", KEYS[2])
    strategy, _ = play(ledger=ledger, registry=revoked, agents=3, partition="dirichlet(0.5)", first_round=9)
    assert strategy.seats.names == {"A", "C"}
    assert ledger.balance("B") == before["B"]
    again = REGISTRY.without("B").with_agent("B", KEYS[2])
    strategy, _ = play(ledger=ledger, registry=again, keys=[KEYS[0], KEYS[2]])
    assert strategy.seats.names == {"A"}, "the account belongs to the revoked key"


def test_a_patient_grid_knows_the_keys():
    grid = Authenticated(configured())
    assert list(patient(grid, RunSettings()).get_nodes()) == grid.get_nodes()


def test_a_run_over_the_network_needs_to_know_its_agents(monkeypatch, tmp_path):
    monkeypatch.delenv(AGENTS, raising=False)
    with pytest.raises(MarketError, match="a run over the network needs to know its agents: name a registry in FL_"):
        _registry(configured())
    assert _registry(configured(bind_accounts=True)) is None
    assert _registry(configured(unauthenticated=True)) is None
    REGISTRY.write(tmp_path / "agents.json")
    monkeypatch.setenv(AGENTS, str(tmp_path / "agents.json"))
    assert _registry(configured()) == REGISTRY
