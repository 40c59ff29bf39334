import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_market.errors import MarketError
from fl_market.tasks import TaskOptions, load_task
from fl_market.tasks.partition import by_dirichlet, by_shards, by_shares, parse_partition

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


def test_shares_are_disjoint_parts_with_the_same_mix_of_classes():
    parts = by_shares(TARGETS, 3, 0, 0.5, 0.25, 0.05)
    assert [len(part) for part in parts] == [300, 150, 30]
    assert len(torch.cat(parts).unique()) == 480
    for part, each in zip(parts, (30, 15, 3), strict=True):
        assert torch.bincount(TARGETS[part]).tolist() == [each] * 10
    even = parse_partition("even")(TARGETS, 3, 0)
    assert torch.equal(torch.cat(even).sort().values, torch.arange(600))
    assert torch.equal(even[1], parse_partition(f"shares({1 / 3}, {1 / 3}, {1 / 3})")(TARGETS, 3, 0)[1])


def test_ranges_of_classes_begin_at_equal_distances():
    one, other = parse_partition("classes(7)")(TARGETS, 2, 0)
    assert TARGETS[one].unique().tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert TARGETS[other].unique().tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert not set(one.tolist()) & set(other.tolist())


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
        ("shares(0.5, 0.5)", "shares must be 20 numbers above 0"),
        ("classes(11)", "must be from 1 to 10; got 11"),
        ("halves(2)", r"must be in \[0, 1\]; got 2"),
    ],
)
def test_impossible_partitions_are_named(partition, message):
    with pytest.raises(MarketError, match=message):
        load_task("mnist-mlp", TaskOptions(partition=partition, agents=20))
