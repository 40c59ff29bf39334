import numpy as np
import pytest
import torch
from PIL import Image

from clients.agent_data import load_agent_data
from clients.local_data import read_local_data
from fl_market.configuration import Configuration
from fl_market.errors import MarketError
from fl_market.tasks.mnist import prepared

TASK = Configuration().load_task()
IMAGES = np.arange(4 * 28 * 28, dtype=np.uint8).reshape(4, 1, 28, 28)


def test_arrays_of_bytes_are_normalised_as_the_task_s_own(tmp_path):
    np.savez(tmp_path / "mine.npz", inputs=IMAGES, targets=np.array([3, 1, 4, 1]))
    inputs, targets = read_local_data(str(tmp_path / "mine.npz"), TASK)
    assert torch.equal(inputs, prepared(torch.from_numpy(IMAGES)))
    assert targets.tolist() == [3, 1, 4, 1]


def test_a_folder_of_images_by_class(tmp_path):
    for label in range(3):
        (tmp_path / f"digit-{label}").mkdir()
        Image.fromarray(np.full((40, 40, 3), 80 * label, dtype=np.uint8)).save(tmp_path / f"digit-{label}" / "a.png")
    inputs, targets = read_local_data(str(tmp_path), TASK)
    assert inputs.shape == (3, 1, 28, 28)
    assert targets.tolist() == [0, 1, 2]
    torch.testing.assert_close(inputs[1], prepared(torch.full((1, 1, 28, 28), 80, dtype=torch.uint8))[0])


def test_a_user_s_function(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def mine(task):\n    return task.test[0][:5], [0, 1, 2, 3, 4]\n")
    inputs, targets = read_local_data(f"{file}:mine", TASK)
    assert torch.equal(inputs, TASK.test[0][:5])
    assert targets.dtype is torch.int64


def test_an_agent_trains_on_it(tmp_path):
    np.savez(tmp_path / "mine.npz", inputs=IMAGES, targets=np.array([3, 1, 4, 1]))
    options = Configuration.of(local_data=str(tmp_path / "mine.npz"))
    assert len(load_agent_data(options, 0).training[0]) == 4
    labelled = Configuration.of(local_data=str(tmp_path / "mine.npz"), labels="1,3")
    assert load_agent_data(labelled, 0).training[1].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"inputs": IMAGES}, "lacks the array 'targets'"),
        ({"targets": np.zeros(4)}, "lacks the array 'inputs'"),
        ({"inputs": IMAGES, "targets": np.array([1])}, "a target for each input; got 4 inputs and 1 targets"),
        (
            {"inputs": IMAGES[:, :, :7], "targets": np.zeros(4)},
            r"must have shape \(1, 28, 28\) and dtype torch.float32, .* mnist-mlp takes; got shape \(1, 7, 28\)",
        ),
        ({"inputs": IMAGES.astype(np.float64), "targets": np.zeros(4)}, "got shape .* and dtype torch.float64"),
        ({"inputs": np.full((4, 1, 28, 28), np.nan, np.float32), "targets": np.zeros(4)}, "NaN"),
        ({"inputs": IMAGES, "targets": np.array([0, 1, 2, 10])}, "must be whole numbers from 0 to 9"),
        ({"inputs": IMAGES, "targets": np.array([0, 1, 2, 2.5])}, "must be whole numbers from 0 to 9"),
        ({"inputs": IMAGES, "targets": np.array(["a", "b", "c", "d"])}, "cannot be read: TypeError"),
        ({"inputs": IMAGES[:0], "targets": np.zeros(0)}, "got 0 inputs"),
    ],
)
def test_data_that_do_not_fit_are_named_with_their_file(tmp_path, arrays, complaint):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(MarketError, match=rf"local-data {tmp_path}/mine\.npz.*{complaint}"):
        read_local_data(str(tmp_path / "mine.npz"), TASK)


def test_damaged_files_are_named(tmp_path):
    whole, cut, none = tmp_path / "whole.npz", tmp_path / "cut.npz", tmp_path / "none.npz"
    np.savez(whole, inputs=IMAGES, targets=np.zeros(4))
    cut.write_bytes(whole.read_bytes()[:400])
    none.write_bytes(b"")
    for path in (cut, none):
        with pytest.raises(MarketError, match=f"local-data {path} cannot be read: .*it must be a folder"):
            read_local_data(str(path), TASK)


def test_a_damaged_image_is_named(tmp_path):
    (tmp_path / "zero").mkdir()
    image = tmp_path / "zero" / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)).save(image)
    image.write_bytes(image.read_bytes()[:600])
    with pytest.raises(MarketError, match=f"the image {image} of local-data cannot be read: "):
        read_local_data(str(tmp_path), TASK)


@pytest.mark.parametrize(
    ("where", "complaint"),
    [
        ("/nowhere", "local-data must be a folder .*; got '/nowhere'"),
        ("data.csv", "local-data must be a folder .*; got 'data.csv'"),
        ("/nowhere.npz", "local-data /nowhere.npz cannot be read: FileNotFoundError"),
        ("/nowhere.py:mine", "local-data /nowhere.py:mine cannot be read: FileNotFoundError"),
    ],
)
def test_data_that_are_not_there_are_named(where, complaint):
    with pytest.raises(MarketError, match=complaint):
        read_local_data(where, TASK)


def test_a_function_that_is_not_there_is_named(tmp_path):
    (tmp_path / "mine.py").write_text("def other(task): pass")
    with pytest.raises(MarketError, match=f"{tmp_path}/mine.py has no function 'mine'"):
        read_local_data(f"{tmp_path}/mine.py:mine", TASK)


def test_the_targets_of_a_function_stay_whole_numbers(tmp_path):
    (tmp_path / "mine.py").write_text("def mine(task):\n    return task.test[0][:2], [0.0, 1.0]\n")
    assert read_local_data(f"{tmp_path}/mine.py:mine", TASK)[1].dtype is torch.int64
