"""The time that a comparison will take is foreseen, and told where it is worth it."""

from fl_market.cli import main, runs
from fl_market.configuration import Configuration
from fl_market.runner.estimate import Estimate, estimate


def test_the_estimate_grows_with_all_that_takes_time():
    def seconds(arms=("market",), seeds=1, **options):
        return estimate(Configuration.of(agents=3, num_server_rounds=4, **options), arms, seeds)

    one = seconds(first_round=1)
    assert min(one.training, one.tests, one.trials) > 0
    assert seconds(("siloed", "fedavg")).trials == 0, "they have no broker that tries"
    assert seconds(train_samples=60).training < one.training
    assert seconds(seeds=50, first_round=1).trials > 10 * one.trials


def test_it_is_right_within_a_factor_of_five(tmp_path):
    from fl_market.runner.engines import run_inline

    options = Configuration.of(strategy="market", agents=3, num_server_rounds=4, first_round=2, learning_rate=0.1)
    foreseen, seconds = estimate(options, ["market"]).seconds, run_inline(options).seconds
    assert seconds / 5 < foreseen < 5 * seconds


def test_long_comparisons_say_how_long_before_they_start(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "WORTH_TELLING", 0.0)
    arguments = ["compare", "--arms", "siloed", "--rounds", "1", "--out", str(tmp_path / "a")]
    assert main(arguments) == 0
    assert capsys.readouterr().err.startswith("fl-market: this will take about 1 s (training 1 s, tests 1 s)")
    assert main(arguments) == 1
    assert "take about" not in capsys.readouterr().err, "nothing is measured for a folder that is taken"
    assert main([*arguments, "--quiet", "--overwrite", "--seeds", "0,1"]) == 0
    assert capsys.readouterr().err == ""


def test_an_estimate_reads_as_a_sentence():
    assert str(Estimate(30.0, 0.0, 300.0)) == "this will take about 6 minutes (training 30 s, trials 5 minutes)"
