import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_market.errors import MarketError
from fl_market.tasks import TaskOptions, load_task
from fl_market.tasks.partition import by_dirichlet, by_shards, parse_partition

TARGETS = torch.arange(10).repeat(60)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 8), st.floats(0.1, 100), st.integers(0, 5))
def test_a_dirichlet_partition_gives_every_sample_to_one_agent(agents, concentration, seed):
    parts = by_dirichlet(TARGETS, agents, seed, concentration)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(600))
    assert min(map(len, parts)) >= 10


def test_the_concentration_decides_how_alike_agents_are():
    def spread(concentration):
        parts = by_dirichlet(TARGETS, 4, 0, concentration)
        counts = torch.stack([torch.bincount(TARGETS[part], minlength=10) for part in parts]).float()
        return float(counts.std(0).mean())

    assert spread(0.1) > 1.5 * spread(1.0) > 3 * spread(100.0)


@pytest.mark.parametrize(("agents", "shards"), [(2, 1), (5, 2), (3, 3)])
def test_shards_hold_few_classes(agents, shards):
    parts = by_shards(TARGETS, agents, 0, shards)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(600))
    classes = 10 / (agents * shards)
    assert all(len(TARGETS[part].unique()) <= shards * (classes + 1) for part in parts)


@pytest.mark.parametrize("text", ["", "thirds", "dirichlet", "dirichlet(x)", "dirichlet(1, 2)", "shards(1.5)"])
def test_an_invalid_text_names_all_partitions(text):
    with pytest.raises(MarketError, match="known are halves, dirichlet"):
        parse_partition(text)


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        ("dirichlet(0)", "must be above 0; got 0"),
        ("dirichlet(1e-9)", "no dirichlet"),
        ("shards(100000)", "cannot be cut into"),
        ("halves(2)", r"must be in \[0, 1\]; got 2"),
    ],
)
def test_impossible_partitions_are_named(partition, message):
    with pytest.raises(MarketError, match=message):
        load_task("mnist-mlp", TaskOptions(partition=partition, agents=20))
