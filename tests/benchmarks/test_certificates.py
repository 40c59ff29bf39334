import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from fl_market.benchmarks import certificate_power as power
from fl_market.benchmarks import certificate_validity as validity
from fl_market.benchmarks import certificate_worthless as worthless
from fl_market.benchmarks import image_parts
from fl_market.cli import main
from fl_market.gains import ErrorBudget, Scores
from fl_market.market.terms import Terms
from fl_market.protocol import Offer


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(validity, "SAMPLES", 500)


@pytest.fixture
def small(monkeypatch):
    """Parts with a few images, and no broker's steps."""
    made = image_parts.image_parts

    def few(data_dir, agents, seed):
        parts = made(data_dir, agents, seed)
        cut = {name: tuple(part[:200] for part in getattr(parts, name)) for name in ("fit", "certify", "unused")}
        return replace(parts, agents=tuple((x[:600], y[:600]) for x, y in parts.agents), **cut)

    for module in (power, worthless):
        monkeypatch.setattr(module, "image_parts", few)
        monkeypatch.setattr(module, "Terms", lambda **options: Terms(fit_steps=1, **options))


@pytest.mark.parametrize("kind", validity.SELLERS)
def test_proposals_are_what_they_say(kind):
    """Their differences have the stated mean: 0 where a certificate would be false."""
    dice = np.random.default_rng(0)
    errors = []
    offer = Offer("o", "agent-1", "all", alpha=0.5, gain=0.1, lower_bound=0.1, after="")
    for _ in range(40):
        seller = validity.SELLERS[kind].make(dice)
        proposals = [next(seller), *(seller.send(offer) for _ in range(5))]
        assert all(np.abs(proposal.differences).max() <= 1 for proposal in proposals)
        errors.append(np.mean([proposal.differences.mean() - proposal.gain for proposal in proposals]))
    assert abs(np.mean(errors)) < 4 * np.std(errors) / len(errors) ** 0.5


@pytest.mark.parametrize(
    "kind", ["independent", "rare harm", "stubborn", "imitator", "climber", "prober of offers", "prober of gains"]
)
def test_the_confidence_of_a_run_holds(kind):
    runs = 30
    assert validity.false_by_round(kind, "run", runs, seed=1)[-1] <= stats.binom.isf(1e-3, runs, validity.ERROR)


@pytest.mark.parametrize("kind", ["independent", "without progress", "climber"])
def test_the_confidence_of_trials_does_not_hold_for_a_run(kind):
    assert validity.false_by_round(kind, "trial", 10, seed=1)[-1] >= 8


@pytest.mark.parametrize("kind", ["colluding probers", "paying probers"])
def test_probers_that_collude_succeed_only_where_nothing_told_is_counted(kind, monkeypatch):
    """With the default certify split, on which a true gain is certified in each round."""
    monkeypatch.setattr(validity, "SAMPLES", 2500)
    assert validity.false_by_round(kind, "run", 5, seed=1)[-1] == 0
    monkeypatch.setattr(ErrorBudget, "told", 1.0)
    assert validity.false_by_round(kind, "run", 5, seed=1)[-1] >= 4


def test_the_quick_decision_is_that_of_the_certificate():
    dice = np.random.default_rng(0)
    seller = validity.independent(dice)
    for error in (0.05, 0.3):
        for _ in range(20):
            proposal = next(seller)
            trial = validity.trial_of(("A", "B"), proposal, error, Terms(certificate="run"))
            certificate = validity._certificate(proposal.differences, error, finite=True)
            assert trial.certificate.positive == certificate.positive


def test_sellers_see_the_offers_of_certified_proposals_alone(monkeypatch):
    offers = []

    def seller(_):
        while True:
            differences = np.full(validity.SAMPLES, 0.07 * (-1) ** len(offers))
            offers.append((yield validity.Proposal(differences, gain=1.0, progress_gain=1.0)))

    monkeypatch.setitem(validity.SELLERS, "alternating", validity.Kind(seller, buys=False))
    monkeypatch.setattr(validity, "AGENTS", 2)
    assert validity.false_by_round("alternating", "run", 1, seed=0)[-1] == 0
    assert {offer.gain for offer in offers if offer is not None} == {0.1}
    assert None in offers


def test_true_gains_are_measured_over_the_alternatives_of_the_certificate():
    halves = {size: torch.full((size,), 0.5, dtype=torch.float64) for size in (100, 300)}

    def scores(known, true):
        one, other = Scores(*[known * halves[100]] * 3), Scores(*[true * halves[300]] * 3)
        return power.ScoresOnBoth(one.loss, one.brier, one.error, unused=other)

    true = power.TrueGains()
    issued = true._certify({"own": scores(1.0, 1.0), "zeros": scores(0.9, 0.8)}, scores(0.6, 0.6), error=0.1)
    assert issued.gain == pytest.approx(1 - 0.6 / 0.9)
    found = true.of(issued)
    assert (found.gain, found.over, found.samples) == (pytest.approx(0.25), "zeros", 300)
    assert true.of(replace(issued, gain=0.123)) is None


def test_the_power_counts_certified_trials_with_a_notable_true_gain(small):
    found = power.measured_trials("", [0], lambda _: None, {"early": power.Market(rounds=2, first_round=2)})
    assert {(trial.buyer, trial.seller) for trial in found} == {("A", "B"), ("B", "A")}
    assert all(trial.gain > 0 for trial in found if trial.certified)  # each lacks half of the classes
    one = found[0]
    trials = [replace(one, gain=0.1, certified=flag, progress=None) for flag in (True, False)]
    trials.append(replace(one, gain=0.01, certified=True, progress=0.3, priced=True))
    summary = power.summary(trials)
    assert summary["gain"] == {"trials": 2, "certified": 0.5}
    assert summary["progress"] == {"trials": 1, "certified": 1.0}


def test_worthless_sellers_are_hardly_certified(small, monkeypatch):
    monkeypatch.setattr(worthless, "DEGREES", {"early": worthless.Degree(600, 2, 0.05)})
    found = worthless.tested_sellers("", [0], lambda _: None, degrees=["early"], draws=1)
    assert len(found) == len(worthless.KINDS) * len(worthless.GRANULARITIES)
    assert sum(one.certified for one in found if one.kind in ("zeros", "untrained", "noise", "constant")) == 0
    count = worthless.counted(found, "zeros", "row")
    assert count == {"trials": 1, "certified": 0, "certified in a run": 0, "priced": 0}


def test_the_command_writes_what_it_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(power, "measured_trials", lambda *_: [measured(0.3, True), measured(0.1, False)])
    monkeypatch.setattr(worthless, "tested_sellers", lambda *_: [])
    monkeypatch.setattr(
        validity, "SELLERS", {kind: validity.SELLERS[kind] for kind in ("stubborn", "prober of offers")}
    )
    assert main(["bench", "certificates", "--runs", "2", "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "certificates.json").read_text())
    counts = document["validity"]["runs with a false certificate by round"]
    assert set(counts) == {"stubborn", "prober of offers"}
    assert all(len(by_round) == validity.ROUNDS for scopes in counts.values() for by_round in scopes.values())
    assert document["power"]["all"]["gain"] == {"trials": 2, "certified": 0.5}
    printed = capsys.readouterr().out
    assert "50 of 2" in printed
    assert "random labels" in printed
    assert (tmp_path / "certificates.png").read_bytes().startswith(b"\x89PNG")
    assert main(["bench", "certificates", "--out", str(tmp_path)]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_parts_are_chosen(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(validity, "SELLERS", {"stubborn": validity.SELLERS["stubborn"]})
    assert main(["bench", "certificates", "--parts", "validity", "--runs", "1", "--out", str(tmp_path)]) == 0
    assert set(json.loads((tmp_path / "certificates.json").read_text())) == {"seed", "data", "validity"}
    assert main(["bench", "certificates", "--parts", "speed"]) == 2
    assert "worthless" in capsys.readouterr().err


def measured(gain, certified):
    return power.Measured("two agents", 0, 5, "A", "B", gain, gain, certified, gain, certified)
