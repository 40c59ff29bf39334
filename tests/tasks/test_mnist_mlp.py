import gzip
import json
import shutil
import subprocess
import sys

import pytest
import torch

from fl_market.errors import MarketError
from fl_market.tasks import TaskOptions, load_task
from fl_market.tasks.mnist import read_mnist
from fl_market.tasks.mnist_mlp import mnist_mlp
from fl_market.tasks.partition import by_halves_of_classes, stratified
from fl_market.tasks.sample import FILE, PARTS, load_sample
from fl_market.tasks.torchvision_import import import_torchvision


def counts(targets):
    return torch.bincount(targets, minlength=10).tolist()


def test_the_sample_is_stratified_small_and_names_its_source():
    sample = {part: load_sample(part) for part in PARTS}
    assert {part: len(labels) for part, (_, labels) in sample.items()} == {"train": 6000, "broker": 1500, "test": 2000}
    shares = {part: torch.bincount(labels, minlength=10) / len(labels) for part, (_, labels) in sample.items()}
    assert (shares["train"] - shares["broker"]).abs().max() < 0.002
    from importlib import resources

    files = {part: resources.files("fl_market.tasks").joinpath(FILE.format(part=part)) for part in PARTS}
    documents = {part: json.loads(file.read_text()) for part, file in files.items()}
    assert sum(len(file.read_bytes()) for file in files.values()) < 3_000_000
    assert {document["licence"] for document in documents.values()} == {"CC BY-SA 3.0"}
    assert all("LeCun" in document["source"] for document in documents.values())
    assert not set(documents["train"]["indices"]) & set(documents["broker"]["indices"])


def test_the_sample_s_images_are_the_published_ones(real_mnist):
    from importlib import resources

    train, test = read_mnist(real_mnist)
    for part, source in (("train", train), ("broker", train), ("test", test)):
        file = resources.files("fl_market.tasks").joinpath(FILE.format(part=part))
        indices = json.loads(file.read_text())["indices"]
        for known, published in zip(load_sample(part), source, strict=True):
            assert torch.equal(known, published[indices])


def test_a_broken_sample_is_named(monkeypatch):
    monkeypatch.setattr("fl_market.tasks.sample.json.loads", lambda text: {"images": "", "labels": [], "sha256": ""})
    with pytest.raises(MarketError, match=r"MNIST sample \(mnist_sample_test.json\) is missing or corrupt"):
        load_sample.__wrapped__("test")


def test_the_published_imbalance():
    task = load_task("mnist-mlp", TaskOptions())
    whole = counts(load_sample("train")[1])
    for index, (_, targets) in enumerate(task.agents):
        scarce = range(5) if index == 0 else range(5, 10)
        for label, count in enumerate(counts(targets)):
            assert count == (round(0.1 * whole[label]) if label in scarce else whole[label])


def test_the_full_set_gives_the_broker_5000_training_samples_that_no_agent_has(real_mnist):
    task = mnist_mlp(TaskOptions(data_dir=str(real_mnist), seed=3))
    assert len(task.broker[0]) == 5000
    assert len(task.test[0]) == 10_000
    assert task.batch_size == 512

    def fingerprints(images):
        return {image.numpy().tobytes() for image in images}

    broker = fingerprints(task.broker[0])
    (images, _), _ = read_mnist(real_mnist)
    duplicates = 60_000 - len({image.numpy().tobytes() for image in images})
    assert all(len(broker & fingerprints(part[0])) <= duplicates for part in task.agents)


def test_the_seed_decides_the_split():
    first, again, other = (mnist_mlp(TaskOptions(seed=seed)).agents[0][0].sum() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_the_published_network():
    model = load_task("mnist-mlp", TaskOptions()).build_model()
    weights = [tuple(tensor.shape) for name, tensor in model.state_dict().items() if name.endswith("weight")]
    assert weights == [(32, 784), (32, 32), (32, 32), (16, 32), (10, 16)]


def test_initial_models_are_each_agent_s_own_or_common():
    task = load_task("mnist-mlp", TaskOptions())
    weight = {name: task.initial_model(0, name).state_dict()["1.weight"] for name in ("A", "B", None)}
    assert torch.equal(weight["A"], task.initial_model(0, "A").state_dict()["1.weight"])
    assert not torch.equal(weight["A"], weight["B"])
    assert not torch.equal(weight["A"], weight[None])


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage"])
def test_data_that_cannot_be_read_is_named(tmp_path, real_mnist, damage):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    if damage != "missing":
        for path in (real_mnist / "MNIST" / "raw").iterdir():
            shutil.copyfile(path, raw / path.name)
        broken = raw / "train-images-idx3-ubyte.gz"
        content = gzip.decompress(broken.read_bytes())
        broken.write_bytes(gzip.compress(content[:1000], 1) if damage == "truncated" else b"no gzip")
    file = "train-images-idx3-ubyte" + ("" if damage == "missing" else r"\.gz")
    with pytest.raises(
        MarketError, match=f"MNIST cannot be read from {tmp_path}: {file}: .*; the files must be in the layout"
    ):
        mnist_mlp(TaskOptions(data_dir=str(tmp_path)))


def test_unpacked_files_are_read_as_well(real_mnist, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (real_mnist / "MNIST" / "raw").iterdir():
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    for one, other in zip(read_mnist(tmp_path), read_mnist(real_mnist), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_reading_changes_nothing_in_the_folder(real_mnist):
    before = sorted(path.name for path in (real_mnist / "MNIST" / "raw").iterdir())
    read_mnist(real_mnist)
    assert sorted(path.name for path in (real_mnist / "MNIST" / "raw").iterdir()) == before


def test_stratified_shares():
    targets = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    taken = stratified(targets, 10, 0, "test")
    assert counts(targets[taken])[:3] == [7, 2, 1]
    assert len(set(taken.tolist())) == 10
    with pytest.raises(MarketError, match="count must be from 3 to 99, for there are 3 classes and 100 samples; got 2"):
        stratified(targets, 2, 0, "test")


def test_more_than_two_agents_take_turns():
    targets = torch.arange(10).repeat(20)
    parts = by_halves_of_classes(targets, 4, 0, scarce_share=0.1)
    assert [counts(targets[part])[0] for part in parts] == [2, 20, 2, 20]
    with pytest.raises(MarketError, match=r"share of scarce classes must be in \[0, 1\]; got 1.5"):
        by_halves_of_classes(targets, 2, 0, scarce_share=1.5)


def test_torchvision_imports_beside_any_torch():
    code = (
        "from fl_market.tasks.torchvision_import import import_torchvision as f; t = f();"
        "assert f() is t; from torchvision.transforms import v2; import torchvision.models; print(t.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("0.28")


def test_torchvision_is_left_alone_where_it_imports(monkeypatch):
    import_torchvision()  # afterwards torchvision imports by itself
    monkeypatch.setattr("fl_market.tasks.torchvision_import._declare_operators", lambda: pytest.fail("declared"))
    import_torchvision()


def test_an_unknown_task_is_named():
    with pytest.raises(MarketError, match=r"unknown task 'chess'; known are mnist-mlp, .* or your own as FILE.py"):
        load_task("chess", TaskOptions())
