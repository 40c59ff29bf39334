"""A task that is made for one party holds that party's samples and the test set, and no others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fl_market.tasks import TASKS, TaskOptions, find_task, load_task, mnist
from fl_market.tasks.loading import _loaded
from fl_market.tasks.reading import kept_if_repeated
from fl_market.tasks.task import BROKER

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_task.py"
OWN = """
from dataclasses import replace

import torch
from torch import nn

from fl_market.tasks import Task


def task(options):
    inputs, targets = torch.arange(40.0).reshape(40, 1), torch.arange(40) % 2
    parts = [(inputs[start : start + 10], targets[start : start + 10]) for start in range(0, 40, 10)]
    criterion = nn.CrossEntropyLoss(reduction="none")
    return Task("mine", lambda classes: nn.Linear(1, classes), 2, criterion, parts[:2], *parts[2:], 4)
"""


@pytest.fixture
def tiny(tmp_path):
    """A folder like TinyImageNet's: three classes of eight images, all of them different."""
    root = tmp_path / "tiny-imagenet-200"
    (root / "val" / "images").mkdir(parents=True)
    rows = []
    for place, name in enumerate(("n01", "n02", "n03")):
        (root / "train" / name / "images").mkdir(parents=True)
        for number in range(8):
            image = Image.new("RGB", (64, 64), (50 * place, 10 * number, 0))
            image.save(root / "train" / name / "images" / f"{name}_{number}.JPEG")
        Image.new("L", (64, 64), 99).save(root / "val" / "images" / f"val_{place}.JPEG")
        rows.append(f"val_{place}.JPEG\t{name}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("n01\nn02\nn03\n")
    return tmp_path


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def check_parties(make, options):
    """Compare the task of each party, as ``make`` returns it, with that of all together."""
    whole = make(options)
    assert len(whole.broker[0]) and all(len(data[0]) for data in whole.agents)
    for party in (BROKER, *range(options.agents)):
        task = make(replace(options, party=party))
        parts = [(BROKER, task.broker, whole.broker)]
        parts += [(agent, *pair) for agent, pair in enumerate(zip(task.agents, whole.agents, strict=True))]
        for owner, data, all_data in parts:
            assert same(data, all_data if owner == party else [part[:0] for part in all_data]), (party, owner)
        held = (*task.test, *(part for data in (task.broker, *task.agents) if len(data[0]) for part in data))
        assert all(part.untyped_storage().nbytes() == part.nbytes for part in held), "nor in the same memory"
        assert same(task.test, whole.test)
        assert task.classes == whole.classes


SHIPPED = {
    "mnist-mlp": {"agents": 3, "broker_samples": 50, "train_samples": 300},
    "mnist-resnet8": {"partition": "dirichlet(0.5)"},
    "digits-vit": {"partition": "shards(2)"},
}


@pytest.mark.parametrize("name", SHIPPED)
def test_tasks_on_the_sample(name):
    check_parties(TASKS[name], TaskOptions(**SHIPPED[name]))


def test_the_published_mnist(real_mnist):
    check_parties(TASKS["mnist-mlp"], TaskOptions(data_dir=str(real_mnist), train_samples=500, broker_samples=200))


def test_cifar10(real_cifar10):
    options = TaskOptions(data_dir=str(real_cifar10), train_samples=300, broker_samples=200, seed=1)
    check_parties(TASKS["cifar10-resnet20"], options)


def test_tinyimagenet(tiny):
    check_parties(TASKS["tinyimagenet-resnet20"], TaskOptions(data_dir=str(tiny), broker_samples=6, agents=2))


def test_all_shipped_tasks_are_checked_here():
    assert set(TASKS) == {*SHIPPED, "cifar10-resnet20", "tinyimagenet-resnet20"}


def test_the_documented_example():
    check_parties(find_task(f"{EXAMPLE}:rings"), TaskOptions(broker_samples=600))


def test_an_agent_reads_no_images_of_others(tiny, monkeypatch):
    """Of TinyImageNet, whose images are files, each party opens its own and the test set's."""
    opened, original = set(), Image.open

    def noting(path, *arguments):
        opened.add(path)
        return original(path, *arguments)

    monkeypatch.setattr(Image, "open", noting)
    options = TaskOptions(data_dir=str(tiny), broker_samples=6, agents=2, partition="dirichlet(10)")
    by_party = {}
    for party in (BROKER, 0, 1):
        opened.clear()
        task = TASKS["tinyimagenet-resnet20"](replace(options, party=party))
        by_party[party] = {path for path in opened if path.parts[-4] == "train"}
        own = task.broker if party == BROKER else task.agents[party]
        assert len(by_party[party]) == len(own[0])
    assert sum(map(len, by_party.values())) == len(set().union(*by_party.values())) == 24


def test_an_agent_does_not_read_the_broker_s_part_of_the_sample(monkeypatch):
    read, original = [], mnist.load_sample

    def noting(part):
        read.append(part)
        return original(part)

    monkeypatch.setattr(mnist, "load_sample", noting)
    TASKS["mnist-mlp"](TaskOptions(party=1))
    assert read == ["train", "test"]
    TASKS["mnist-mlp"](TaskOptions(party=BROKER))
    assert read[-1] == BROKER


def test_samples_that_a_user_s_function_makes_for_others_are_dropped(tmp_path):
    """It ignores the party, and its parts are slices of one tensor."""
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    name = f"{file}:task"

    def anew(options):
        _loaded.cache_clear()
        return load_task(name, options)

    check_parties(anew, TaskOptions())
    check_parties(lambda options: load_task(name, options), TaskOptions())  # all samples are known first


def test_one_process_keeps_each_party_s_task_and_one_test_set():
    _loaded.cache_clear()
    options = TaskOptions(train_samples=200, broker_samples=100)
    tasks = [load_task("mnist-mlp", replace(options, party=party)) for party in (BROKER, 0, 1)]
    assert all(task.test[0] is tasks[0].test[0] for task in tasks)
    assert load_task("mnist-mlp", replace(options, party=1)) is tasks[2]
    assert len(tasks[2].broker[0]) == len(tasks[2].agents[0][0]) == 0


def test_a_repeated_reading_is_kept_and_a_single_one_is_not():
    calls = []

    @kept_if_repeated(1)
    def read(name):
        calls.append(name)
        return [name]

    assert read("a") is not read("a")
    assert read("a") is read("a")
    assert calls == ["a", "a"]
    read("b")
    assert calls == ["a", "a", "b"]
