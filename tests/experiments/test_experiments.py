"""The ``experiment`` and ``bench align`` commands write what they print."""

import json

import pytest
import torch

from fl_market.benchmarks.align import Sizes, align, plain_coordinate_descent
from fl_market.cli import main
from fl_market.experiments.linear_figures import DISTANCES, EXPERIMENTS, run_experiment
from fl_market.linear import LinearMarket
from fl_market.permutation import derive_spec, match, objective
from fl_market.tasks.resnet import ResNet

SMALL = LinearMarket(dimension=40, samples=(20, 32), broker_samples=200, test_samples=100, rounds=55)


@pytest.mark.parametrize("name", ["figure3", "figure4", "figure5"])
def test_figures_write_tables_numbers_and_pictures(tmp_path, name):
    table = run_experiment(name, str(tmp_path), [0, 1], setting=SMALL)
    document = json.loads((tmp_path / f"{name}.json").read_text())
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    if name == "figure3":
        assert f"{document['improvement']['A']['mean']:.2f} ± {document['improvement']['A']['std']:.2f}" in table
    elif name == "figure4":
        assert document["distance"] == list(DISTANCES)
        assert f"{document['improvement'][0]:.2f}" in table
    else:
        assert set(document["gap"]) == {"paper", "sharp", "learned"}
        assert f"{document['gap']['paper']:.5f}" in table


def test_theorem51_from_the_command_line(tmp_path, capsys):
    arguments = ["experiment", "theorem51", "--seeds", "0,1", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert "rounds, trading" in capsys.readouterr().out
    document = json.loads((tmp_path / "theorem51.json").read_text())
    assert len(document["mean"]["traded"]) == len(document["accuracy"])
    assert main(arguments) == 1
    assert "already holds theorem51.json" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


def test_every_experiment_has_its_published_set_up():
    assert [EXPERIMENTS[name][1]() for name in ("figure3", "figure4", "figure5")] == [LinearMarket()] * 3
    market = LinearMarket()
    assert (market.dimension, market.samples, market.broker_samples, market.rounds) == (1000, (500, 800), 10_000, 100)


def test_plain_coordinate_descent_finds_what_matching_finds():
    one, other = ResNet(blocks=1, norm="layer").state_dict(), ResNet(blocks=1, norm="layer").state_dict()
    spec = derive_spec(ResNet(blocks=1, norm="layer"), torch.zeros(2, 3, 16, 16))
    plain, fast = (search(spec, one, other) for search in (plain_coordinate_descent, match))
    values = [objective(spec, one, other, found) for found in (plain, fast)]
    assert values[0] == pytest.approx(values[1], rel=0.2)


def test_bench_align_compares_both_sides_and_writes_what_it_prints(tmp_path, real_mnist, real_cifar10):
    pytest.importorskip("rebasin", reason="bench align compares with rebasin, which the extra 'bench' installs")
    sizes = Sizes(mlps=2, mnist=600, mnist_epochs=1, cifar10=200, cifar10_epochs=1, widen=1, wide_images=64, test=100)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "MNIST").symlink_to(real_mnist / "MNIST")
    (folder / "cifar-10-batches-py").symlink_to(real_cifar10 / "cifar-10-batches-py")
    table = align(str(folder), str(tmp_path / "out"), sizes=sizes)
    document = json.loads((tmp_path / "out" / "align.json").read_text())
    assert f"{document['rebasin / match, MLP']:.1f}" in table
    assert set(document["seconds"]["wide net"]) == {"match", "plain coordinate descent"}
    assert len(document["barrier"]["ResNet20"]["rebasin"]) == sizes.repetitions
    assert 0 <= document["accuracy"]["repaired"] <= 1


def test_bench_align_without_data_says_what_it_needs(tmp_path, capsys):
    assert main(["bench", "align"]) == 2
    assert "--data-dir" in capsys.readouterr().err
    assert main(["bench", "align", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "cannot be read" in capsys.readouterr().err
