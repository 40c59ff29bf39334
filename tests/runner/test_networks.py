"""Networks with norm layers, and a vision transformer, trade on Flower's own simulation."""

import pytest

from fl_market.configuration import Configuration
from fl_market.ledger import Ledger
from fl_market.runner.engines import ENGINES
from tests.terms import PUBLISHED

pytestmark = pytest.mark.flower


def configured(task, folder, **options):
    small = {"train_samples": 300, "broker_samples": 200, "num_server_rounds": 2, "first_round": 2, "test_every": 2}
    small |= {"learning_rate": 0.05, "momentum": 0.9, "prior": "exponential(1000)"} | PUBLISHED
    return Configuration.of(task=task, strategy="market-priced", out_dir=str(folder), **small, **options)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("mnist-resnet8", {"norm": "batch"}),
        ("mnist-resnet8", {"norm": "group"}),
        ("digits-vit", {}),
    ],
)
def test_it_trades_in_a_real_flower_run_as_in_this_process(tmp_path, task, options):
    result, inline = (
        ENGINES[engine](configured(task, tmp_path / engine, **options), None) for engine in ("simulation", "inline")
    )
    assert inline.agents == result.agents
    (database,) = (tmp_path / "simulation").glob("*.db")
    with Ledger.open_existing(f"sqlite:///{database}") as ledger:
        assert not ledger.verify()
        assert len(ledger.deals()) == result.deals >= 1
        assert all(deal.lower_bound > 0 and 0 < deal.alpha <= 1 for deal, _ in ledger.deals())


@pytest.mark.parametrize("arm", ["fedavg", "market-fine"])
def test_other_arms_run_with_batch_norm(arm, tmp_path):
    configuration = configured("mnist-resnet8", tmp_path, fit_steps=2, agents=3)
    result = ENGINES["inline"](configuration.with_options(strategy=arm, train_samples=200), None)
    assert set(result.agents) == {"A", "B", "C"}
