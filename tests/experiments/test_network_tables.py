"""``experiment table1|table2|figure2``: their files, and no repetition of finished cells."""

import json

import pytest

from fl_market.cli import main
from fl_market.configuration import Configuration
from fl_market.errors import MarketError
from fl_market.experiments.network_tables import (
    ARMS,
    BUDGETS,
    LAYERS,
    PUBLISHED,
    PUBLISHED_TERMS,
    SCALES,
    SETTINGS,
    Plan,
    run_table,
)
from fl_market.runner import cells as cells_module
from fl_market.runner.cells import run_cells

SMALL = {"num_server_rounds": 3, "first_round": 2, "fit_steps": 2, "learning_rate": 0.1, "broker_samples": 200}


@pytest.fixture
def computed(monkeypatch):
    """Run cells in this process, and keep count of them."""
    seen = []

    class Pool:
        def __init__(self, workers, context, initialise, arguments):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def submit(self, run, cell):
            from concurrent.futures import Future

            future = Future()
            seen.append(cell)
            try:
                future.set_result(run(cell))
            except MarketError as error:
                future.set_exception(error)
            return future

        def shutdown(self, **options):
            pass

    monkeypatch.setattr(cells_module, "ProcessPoolExecutor", Pool)
    return seen


def plan(**options):
    return Plan("quick", "", (0, 1), data_sets=("mnist",), options=SMALL, **options)


def test_tables_write_what_they_print_and_compute_no_cell_twice(tmp_path, computed):
    lines = []
    table = run_table("table1", str(tmp_path), plan(), lines.append)
    document = json.loads((tmp_path / "table1.json").read_text())
    assert set(document["cells"]) == {"mnist"}
    assert list(document["cells"]["mnist"]) == list(ARMS)
    for arm in ARMS:
        for agent in "AB":
            cell = document["cells"]["mnist"][arm][agent]
            assert f"{100 * cell['mean']:.2f} ± {100 * cell['std']:.2f}" in table
    for text in ("86.96 / 86.96", "31.69 / 31.82", "not measured"):
        assert text in table
    assert len(computed) == len(lines) - 1 == 2 * len(ARMS)

    # figure 2 needs the very same cells
    text = run_table("figure2", str(tmp_path), plan())
    assert len(computed) == 2 * len(ARMS)
    curves = json.loads((tmp_path / "figure2.json").read_text())
    assert len(curves["test_loss"]["market"][0]) == curves["rounds"] == 3
    late = curves["test_loss"]["fedavg-late"][0]
    first = curves["rounds to fedavg-late's final loss"]["market"][0]
    market = curves["test_loss"]["market"][0]
    assert first is None or (market[first - 1] <= late[-1] and all(loss > late[-1] for loss in market[: first - 1]))
    assert "never" in text or str(first) in text
    assert (tmp_path / "figure2.png").read_bytes().startswith(b"\x89PNG")

    # one cell lost, as where a run was interrupted: it alone is computed, and the table is the same
    (tmp_path / "cells").glob("*").__next__().unlink()
    assert run_table("table1", str(tmp_path), plan()) == table
    assert len(computed) == 2 * len(ARMS) + 1
    assert json.loads((tmp_path / "table1.json").read_text()) == document

    # an agent that missed a round is named below the table
    assert "rounds finished" not in table
    path = next((tmp_path / "cells").glob("*-siloed-1-*"))
    cell = json.loads(path.read_text())
    cell["result"]["agents"]["B"]["rounds_finished"] = 2
    path.write_text(json.dumps(cell))
    assert run_table("table1", str(tmp_path), plan()).endswith("rounds finished, mnist-mlp, siloed, seed 1: B 2/3")


def test_table2_trades_layers_and_budgets(tmp_path, computed):
    run_table("table2", str(tmp_path), Plan("quick", "", (0,), options=SMALL))
    document = json.loads((tmp_path / "table2.json").read_text())
    assert list(document["rows"]) == ["none", *LAYERS]
    assert {cell.market.layers for cell in computed if cell.run.strategy == "market"} == set(LAYERS)
    fine = {(cell.market.layers, cell.market.layer_budget) for cell in computed if cell.run.strategy == "market-fine"}
    assert fine == {*((layers, 1.0) for layers in LAYERS), *(("all", budget) for budget in BUDGETS)}
    assert len(computed) == 2 * len(LAYERS) + len(BUDGETS) + 1
    assert set(document["share of the gain"]) == {"best 25%", "best 50%", "best 75%"}


def test_results_do_not_depend_on_the_number_of_processes(tmp_path):
    some = [Configuration.of(strategy=arm, num_server_rounds=2, first_round=2) for arm in ("siloed", "market")]
    apart = run_cells(some, tmp_path / "a", jobs=2)
    together = [cells_module.run_cell(cell) for cell in some]
    for one, other in zip(apart, together, strict=True):
        assert one["agents"] == other["agents"]
        assert one["trades"] == other["trades"]


def test_a_failed_cell_keeps_the_others(tmp_path, computed):
    good, bad = (
        Configuration.of(num_server_rounds=1),
        Configuration.of(num_server_rounds=1, data_dir="/nowhere", seed=1),
    )
    with pytest.raises(MarketError, match="MNIST cannot be read from /nowhere"):
        run_cells([good, bad], tmp_path)
    run_cells([good], tmp_path)
    assert len(computed) == 2


def test_every_published_cell_has_its_set_up():
    for name, scales in SETTINGS.items():
        assert set(scales) == set(SCALES)
        assert set(PUBLISHED[name]) < set(ARMS)
        for scale in SCALES:
            Plan(scale, "data").cell(name, "market", 0)
    full = Plan("full", "data")
    assert full.cell("mnist", "market", 0) == Configuration.of(num_server_rounds=60, data_dir="data", **PUBLISHED_TERMS)
    assert (full.cell("cifar10", "market", 0).task.widen, full.cell("cifar10", "market", 0).training.batch_size) == (
        6,
        512,
    )
    quick = Plan("quick", "data").cell("cifar10", "market", 0)
    assert quick.task.train_samples <= 10_000
    assert quick.run.num_server_rounds >= 12


def test_what_the_command_line_refuses(tmp_path, capsys):
    common = ["--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["experiment", "table1", *common, "--data", "svhn"]) == 2
    assert "unknown data set 'svhn'; known are mnist, cifar10, tinyimagenet" in capsys.readouterr().err
    assert main(["experiment", "table2", *common, "--seeds", "a"]) == 2
    assert main(["experiment", "figure2", *common, "--seeds", "0", "--jobs", "1", "--quiet"]) == 1
    assert "MNIST cannot be read" in capsys.readouterr().err
    assert main(["experiment", "table1"]) == 2
