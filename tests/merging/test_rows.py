from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fl_market.broker import Broker, Terms
from fl_market.gains import ModelLoss
from fl_market.merging import fit_weights, layer_of
from fl_market.merging.rows import best_rows, row_gains


def build():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


def test_the_gains_of_all_rows_add_up_to_that_of_the_purchase():
    def loss(weights):
        return (weights["a"].sum() - 1).square() + (weights["b"] * torch.tensor([1.0, -1.0])).sum()

    weights = {"a": torch.tensor([0.3, 0.1]), "b": torch.tensor([0.5, 0.2])}
    gains = row_gains(weights, loss)
    total = float(loss({name: torch.zeros(2) for name in weights}) - loss(weights))
    assert float(sum(some.sum() for some in gains.values())) == pytest.approx(total, abs=1e-6)
    assert gains["b"].tolist() == pytest.approx([-0.5, 0.2])


@given(
    st.lists(st.tuples(st.floats(-1, 1, width=32), st.sampled_from(["a", "b", "c"])), min_size=1, max_size=8),
    st.integers(0, 30),
)
def test_the_best_rows_fit_the_budget_and_all_gain(rows, budget):
    sizes = {"a": 1.0, "b": 4.0, "c": 7.5}
    gains = {layer: torch.tensor([gain for gain, name in rows if name == layer]) for layer in sizes}
    chosen = best_rows(budget, gains, sizes)
    spent = sum(sizes[layer] * float(some.sum()) for layer, some in chosen.items())
    assert spent <= budget
    for layer, some in chosen.items():
        assert bool((gains[layer][some > 0] > 0).all())
        # each other row gains nothing, or does not fit any more
        assert all(gain <= 0 or sizes[layer] > budget - spent for gain in gains[layer][some == 0])


def test_of_rows_of_one_size_the_best_are_found():
    gains = {"a": torch.tensor([0.4, -0.1, 0.3, 0.9, 0.2])}
    chosen = best_rows(3, gains, {"a": 1.0})["a"]
    best = max(combinations(range(5), 3), key=lambda rows: float(gains["a"][list(rows)].sum()))
    assert set(torch.nonzero(chosen).flatten().tolist()) == set(best)


@pytest.fixture
def setting():
    torch.manual_seed(0)
    inputs = torch.randn(300, 6)
    targets = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
    trained = build()
    optimiser = torch.optim.Adam(trained.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(trained(inputs), targets).backward()
        optimiser.step()
    return build().state_dict(), trained.state_dict(), (inputs, targets)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_rows_beyond_the_budget_have_no_weight(setting, share):
    own, seller, data = setting
    loss = ModelLoss(build(), nn.CrossEntropyLoss(reduction="none"))
    budget = int(share * sum(tensor.numel() for tensor in own.values()))
    alpha = fit_weights(own, seller, loss, data, "row", budget=budget)
    bought = sum(int((weight.expand_as(own[name]) > 0).sum()) for name, weight in alpha.items())
    assert 0 < bought <= budget
    for name, weight in alpha.items():
        rows = alpha[f"{layer_of(name)}.bias"] > 0
        assert torch.equal(weight.flatten() > 0, rows), "a row is bought with its bias, or not at all"


def test_a_broker_with_a_budget_offers_rows(setting):
    _, seller, data = setting
    own = {name: tensor + 0.3 * torch.randn_like(tensor) for name, tensor in seller.items()}
    criterion = nn.CrossEntropyLoss(reduction="none")
    gains = {}
    for share in (0.3, 1.0):
        terms = Terms(granularity="row", layer_budget=share, repair=False)
        trial, _ = Broker(build(), criterion, data, data, terms=terms).try_before_purchase({"A": own, "B": seller})
        changed = sum(
            int((trial.merged[name] != tensor).reshape(len(tensor), -1).any(1).sum()) * tensor[0].numel()
            for name, tensor in own.items()
        )
        assert changed <= share * sum(tensor.numel() for tensor in own.values())
        gains[share] = trial.certificate.gain
        assert (" of " in trial.layers) == (share < 1)
    assert 0 < gains[0.3] < gains[1.0]
