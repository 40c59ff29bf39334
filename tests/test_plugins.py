"""Plug-ins: the parser, the catalogue, and an example of each kind, used from the command line."""

import importlib
import json
import os
from pathlib import Path

import pytest
import torch

from fl_market.catalogue import (
    ALIGNMENT_METHOD,
    ARM,
    KINDS,
    MERGE_METHOD,
    PARTITION,
    PRICING_RULE,
    PRIOR,
    TASK,
    find_valuation,
)
from fl_market.cli import main
from fl_market.errors import OptionError
from fl_market.ledger import Ledger
from fl_market.plugins import Call, find, label, parse_call, registry_of, with_absolute_file
from fl_market.pricing import Uniform, parse_rule
from fl_market.pricing.testing import check_rule
from tests.terms import PUBLISHED_FLAGS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
QUICK = [*PUBLISHED_FLAGS, "--rounds", "3", "--first-round", "2", "--learning-rate", "0.1", "--quiet"]
SMALL = ["--train-samples", "1500", "--broker-samples", "600"]
PRICED = ["--prior", "exponential(1000)"]


def run(folder, *arguments, strategy="market", status=0):
    words = ["run", "--engine", "inline", "--strategy", strategy, "--out", str(folder), *QUICK, *SMALL, *arguments]
    assert main(words) == status
    return json.loads((folder / "results.json").read_text())["arms"] if status == 0 else None


def prices(folder):
    with Ledger.open_existing(f"sqlite:///{folder}/ledger-market-priced.db") as ledger:
        return [(deal.bid, deal.ask, deal.price) for deal, state in ledger.deals() if state.paid]


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("nash", Call("nash", None)),
        (" posted( 0.5 ) ", Call("posted", (0.5,))),
        ("uniform(0,1e-3)", Call("uniform", (0.0, 0.001))),
        ("own.py:rule()", Call("own.py:rule", ())),
        ("/a(1)/own.py:rule(2)", Call("/a(1)/own.py:rule", (2.0,))),
    ],
)
def test_a_text_in_its_parts(text, call):
    assert parse_call(text) == call


@pytest.mark.parametrize("text", ["", "()", "split(a)", "split(1,)", "split(0.5"])
def test_an_invalid_text_names_all_that_is_accepted(text):
    with pytest.raises(OptionError, match=r"pricing rule.*known are nash, ask, .* FILE\.py:NAME or as an entry point"):
        find(PRICING_RULE, text)


def test_short_names_and_absolute_files(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert with_absolute_file("own.py:rule(1, 2)") == f"{tmp_path}/own.py:rule(1, 2)"
    assert with_absolute_file("nash") == "nash"
    assert label("runs/own.py:greedy") == "greedy"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.noun)
def test_the_catalogue_names_the_registry(kind):
    listed = [shipped.partition("(")[0] for shipped in kind.shipped]
    assert sorted(listed) == sorted(registry_of(kind))
    assert all(kind.lines.values())


@pytest.mark.parametrize(
    ("kind", "content", "text", "complaint"),
    [
        (PRICING_RULE, "rule = 3", "rule", "is not a fl_market.pricing.PricingRule"),
        (PRICING_RULE, "", "rule", "does not define 'rule'"),
        (PRICING_RULE, "def rule(share): return 3", "rule(1, 2)", "has invalid numbers"),
        (PRICING_RULE, "def rule(share): return 3", "rule(1)", "is not a fl_market.pricing.PricingRule"),
        (
            PRIOR,
            "class Prior:\n def price(self, cost): return 1",
            "Prior",
            r"is not an object with a method price\(cost\)",
        ),
        (PARTITION, "def odd(targets): return []", "odd", "is not a function"),
        (PARTITION, "def odd(targets, agents, seed, n: int): return []", "odd(0.5)", "a whole number for n; got 0.5"),
        (ARM, "arm = len", "arm", "is not a strategies.arms.Arm"),
        (TASK, "1 / 0", "task", "cannot be run: ZeroDivisionError"),
        (TASK, "task = len", "task(1, 2)", "has invalid numbers"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, kind, content, text, complaint):
    file = tmp_path / "own.py"
    file.write_text(content)
    with pytest.raises(OptionError, match=complaint):
        find(kind, f"{file}:{text}")


def test_a_file_is_run_again_once_it_has_changed(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("value = object()\ndef task(options): return value")
    first = find(TASK, f"{file}:task")
    assert find(TASK, f"{file}:task") is first is not find(TASK, f"{file}:task", fresh=True)
    file.write_text("def task(options): return 2  # another version")
    os.utime(file, ns=(1, 1))
    assert find(TASK, f"{file}:task")(None) == 2


def test_an_installed_entry_point_is_found_by_its_name(tmp_path, monkeypatch):
    """A distribution's metadata, as ``pip install`` leaves it on the path."""
    (tmp_path / "own_market_rules.py").write_text("from fl_market.pricing import split\nquarter = split(1 / 4)\n")
    metadata = tmp_path / "own_market_rules-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-market-rules\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[fl_market.pricing_rules]\nquarter = own_market_rules:quarter\nfraction = fl_market.pricing:split\n"
        "missing = own_market_rules:nothing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert parse_rule("quarter").price(90, 30) == 45
    assert parse_rule("fraction(0.5)").price(90, 30) == 60
    assert PRICING_RULE.lines["quarter"] == "from own_market_rules:quarter"
    with pytest.raises(OptionError, match="the pricing rule 'missing' cannot be loaded: AttributeError"):
        parse_rule("missing")


def test_a_pricing_rule_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    check_rule(parse_rule("own_pricing_rule.py:commission(0.1)"))
    run(tmp_path, "--pricing", "own_pricing_rule.py:commission(0.1)", *PRICED, strategy="market-priced")
    assert prices(tmp_path)
    assert all(price == ask + round(0.1 * ask) <= bid for bid, ask, price in prices(tmp_path))


@pytest.mark.parametrize(("text", "ask"), [("Spiked(0.3, 0.002)", 1000), ("cautious", 5000)])
def test_a_prior_of_ones_own(tmp_path, text, ask):
    prior = f"{EXAMPLES}/own_prior.py:{text}"
    run(tmp_path, "--prior", prior, "--pricing", "ask", strategy="market-priced")
    assert prices(tmp_path)
    assert {price for _, _, price in prices(tmp_path)} == {ask}


def test_a_partition_of_ones_own(tmp_path):
    partition = f"{EXAMPLES}/own_partition.py:by_parity(0)"
    targets = torch.arange(10).repeat(5)
    parts = find(PARTITION, partition)(targets, 2, 0)
    assert [set(targets[part].tolist()) for part in parts] == [{0, 2, 4, 6, 8}, {1, 3, 5, 7, 9}]
    results = run(tmp_path, "--partition", partition, "--rounds", "1", strategy="siloed")
    assert results["siloed"]["agents"]["A"]["test_accuracy"] < 0.6, "it knows half of the classes"


def test_a_partition_that_returns_no_indices_is_named(tmp_path, capsys):
    (tmp_path / "own.py").write_text("import torch\ndef one(targets, agents, seed): return [torch.arange(3)]\n")
    run(tmp_path / "out", "--partition", f"{tmp_path}/own.py:one", status=2)
    assert "must return 2 tensors of indices; got 1" in capsys.readouterr().err


def test_an_arm_of_ones_own(tmp_path, capsys):
    arms = [f"{EXAMPLES}/own_arm.py:{name}" for name in ("two_sellers", "median")]
    words = ["compare", "--arms", ", ".join(arms), "--agents", "3", "--out", str(tmp_path), *QUICK, *SMALL]
    assert main(words) == 0
    results = json.loads((tmp_path / "results.json").read_text())["arms"]
    assert list(results) == ["two_sellers", "median"]
    assert results["two_sellers"]["deals"] > 0
    assert results["median"]["deals"] == 0
    assert (tmp_path / "ledger-two_sellers.db").exists()
    assert "two_sellers" in capsys.readouterr().out


def test_a_merge_method_of_ones_own(tmp_path):
    from fl_market.merging.testing import check_merge_method

    text = f"{EXAMPLES}/own_merge_method.py:largest_half"
    check_merge_method(find(MERGE_METHOD, text))
    own = run(tmp_path / "own", "--merge", text)["market"]
    assert own["deals"] > 0
    assert own != run(tmp_path / "shipped")["market"]


@pytest.mark.parametrize("text", [f"{EXAMPLES}/own_alignment_method.py:by_norm", "activations"])
def test_an_alignment_method_of_ones_own(tmp_path, text):
    from fl_market.permutation.testing import check_alignment_method

    check_alignment_method(find(ALIGNMENT_METHOD, text))
    own = run(tmp_path / "own", "--alignment", text)["market"]
    assert own["deals"] > 0
    assert own != run(tmp_path / "shipped")["market"]


@pytest.mark.parametrize("text", ["above(0.15)", "certain"])
def test_a_valuation_of_ones_own(tmp_path, text):
    from fl_market.valuation import check_valuation

    valuation = f"{EXAMPLES}/own_valuation.py:{text}"
    check_valuation(find_valuation(valuation, 1.0))
    run(tmp_path / "own", "--valuation", valuation, *PRICED, strategy="market-priced")
    run(tmp_path / "shipped", *PRICED, strategy="market-priced")
    own, shipped = prices(tmp_path / "own"), prices(tmp_path / "shipped")
    assert own
    assert own != shipped


def test_shipped_names_are_found_whatever_their_case():
    assert find(PRIOR, "Uniform(0, 1)") == Uniform(0.0, 1.0)
