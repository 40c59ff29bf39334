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


def test_a_function_of_one_s_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def mine(task):\n    return task.test[0][:5], [0, 1, 2, 3, 4]\n")
    inputs, targets = read_local_data(f"{file}:mine", TASK)
    assert torch.equal(inputs, TASK.test[0][:5])
    assert targets.dtype is torch.int64


def test_an_agent_trains_on_it(tmp_path):
    np.savez(tmp_path / "mine.npz", inputs=IMAGES, targets=np.array([3, 1, 4, 1]))
    options = Configuration(local_data=str(tmp_path / "mine.npz"))
    assert len(load_agent_data(options, 0).training[0]) == 4
    labelled = Configuration(local_data=str(tmp_path / "mine.npz"), labels="1,3")
    assert load_agent_data(labelled, 0).training[1].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"inputs": IMAGES}, "cannot be read from"),
        ({"inputs": IMAGES, "targets": np.array([1])}, "has 4 inputs of shape .* for 1 targets"),
        ({"inputs": IMAGES[:, :, :7], "targets": np.zeros(4)}, r"of shape \(1, 7, 28\)"),
        ({"inputs": IMAGES.astype(np.float64), "targets": np.zeros(4)}, "float64"),
        ({"inputs": np.full((4, 1, 28, 28), np.nan, np.float32), "targets": np.zeros(4)}, "NaN"),
        ({"inputs": IMAGES, "targets": np.array([0, 1, 2, 10])}, "not whole numbers from 0 to 9"),
        ({"inputs": IMAGES[:0], "targets": np.zeros(0)}, "has 0 inputs"),
    ],
)
def test_data_that_does_not_fit_is_named(tmp_path, arrays, complaint):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(MarketError, match=complaint):
        read_local_data(str(tmp_path / "mine.npz"), TASK)


@pytest.mark.parametrize("where", ["/nowhere", "data.csv", "/nowhere.npz", "/nowhere.py:mine"])
def test_data_that_is_not_there_is_named(where):
    with pytest.raises(MarketError, match=f"local-data cannot be .*{where}.*accepted is a folder"):
        read_local_data(where, TASK)
