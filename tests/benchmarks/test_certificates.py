import json
from itertools import islice

import numpy as np
import pytest
from scipy import stats

from fl_market.benchmarks import certificates as bench
from fl_market.cli import main


@pytest.mark.parametrize("kind", bench.SELLERS)
def test_proposals_are_what_they_say(kind):
    """Their differences have the stated mean: 0 where a certificate would be false."""
    dice = np.random.default_rng(0)
    errors = []
    for _ in range(40):
        seller = bench.SELLERS[kind](dice)
        proposals = [next(seller), *(seller.send(0.05) for _ in range(5))]
        assert all(np.abs(proposal.differences).max() <= 1 for proposal in proposals)
        errors.append(np.mean([proposal.differences.mean() - proposal.gain for proposal in proposals]))
    assert abs(np.mean(errors)) < 4 * np.std(errors) / len(errors) ** 0.5


@pytest.mark.parametrize("kind", ["independent", "rare harm", "stubborn", "imitator", "climber"])
def test_the_confidence_of_a_run_holds(kind):
    runs = 100
    assert bench.false_by_round(kind, "run", runs, seed=1)[-1] <= stats.binom.isf(1e-3, runs, bench.ERROR)


def test_the_confidence_of_trials_does_not_hold_for_a_run():
    assert bench.false_by_round("independent", "trial", 20, seed=1)[-1] == 20


def test_a_prober_that_is_told_gains_is_a_known_limit():
    assert bench.false_by_round("prober of gains", "run", 5, seed=1)[-1] > 0


def test_a_seller_learns_of_certified_proposals_alone(monkeypatch):
    answers = []

    def seller(_):
        while True:
            answers.append((yield bench.Proposal(np.full(bench.SAMPLES, 0.07 * (-1) ** len(answers)), gain=1.0)))

    monkeypatch.setattr(bench, "AGENTS", 2)
    assert bench.first_false_certificate(seller, "run", np.random.default_rng(0)) is None
    assert set(islice(answers, 60)) == {None, 0.07}


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    assert main(["bench", "certificates", "--runs", "2", "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "certificates.json").read_text())
    counts = document["runs with a false certificate by round"]
    assert (document["runs"], document["error"], set(counts)) == (2, 0.05, set(bench.SELLERS))
    assert all(len(counts[kind][scope]) == bench.ROUNDS for kind in counts for scope in bench.SCOPES)
    printed = capsys.readouterr().out
    assert f"{50 * counts['stubborn']['run'][-1]:.1f}" in printed
    assert "prober of gains" in printed
    assert (tmp_path / "certificates.png").read_bytes().startswith(b"\x89PNG")
    assert main(["bench", "certificates", "--out", str(tmp_path)]) == 1
    assert "--overwrite" in capsys.readouterr().err
