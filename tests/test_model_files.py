"""Models in files: what is read is what was kept, what is needed stays, damage is told."""

import gc
import pickle

import pytest
import torch
from safetensors import safe_open

from fl_market.errors import MarketError
from fl_market.model_files import ModelFile, ModelFiles, in_memory
from fl_market.parameters import digest


def model(level=1.0):
    return {"a.weight": torch.full((2, 3), level), "steps": torch.tensor(3), "half": torch.ones(4).bfloat16()}


def equal(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def files(tmp_path):
    return ModelFiles(tmp_path / "models")


def left(files):
    gc.collect()
    return {path.name for path in files.folder.iterdir()}


def test_a_kept_model_is_the_same_model(files):
    kept = files.keep(model())
    assert equal(kept, model())
    assert len(kept) == 3
    assert digest(kept) == kept.sha256 == digest(model())
    assert files.keep(kept) is kept
    assert in_memory(kept) is kept
    with pytest.raises(KeyError):
        kept["b"]


def test_views_and_shared_tensors_are_kept_by_value(files):
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"turned": whole.T, "row": whole[1], "same": whole[1]}
    assert equal(files.keep(state), state)


def test_a_tensor_is_no_window_into_the_file(files):
    """What a reader does with it reaches neither the file nor the next reader."""
    kept = files.keep(model())
    kept["a.weight"].zero_()
    assert equal(kept, model())


def test_equal_models_have_one_file(files):
    first, second, other = files.keep(model()), files.keep(model()), files.keep(model(2.0))
    assert first.path == second.path != other.path
    assert len(left(files)) == 2
    assert first != second, "a state dict is known by its identity"


def test_another_process_reads_the_same_file(files):
    kept = files.keep(model())
    assert equal(pickle.loads(pickle.dumps(kept)), model())
    assert len(pickle.dumps(kept)) < 1000


def test_models_in_use_stay_and_others_go(files):
    used, named, gone = files.keep(model(1.0)), files.keep(model(2.0)).sha256, files.keep(model(3.0)).sha256
    unfinished = files.folder / "crashed.safetensors.7.unfinished"
    unfinished.write_bytes(b"")
    gc.collect()
    files.remove_others({named})
    assert left(files) == {used.path.name, f"{named}.safetensors"}
    assert digest(files.keep(model(3.0))) == gone, "a removed model is written anew"
    assert equal(files.read(gone), model(3.0))


def test_a_file_of_a_crashed_process_is_not_trusted(files):
    """Its name may have survived without its content."""
    kept = files.keep(model())
    kept.path.write_bytes(kept.path.read_bytes()[:-8] + bytes(8))
    assert equal(ModelFiles(files.folder).keep(model()), model())


@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_damage_is_told(files, damage):
    kept = files.keep(model())
    content = kept.path.read_bytes()
    if damage == "missing":
        kept.path.unlink()
    else:
        kept.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if damage == "changed" else content[:20])
    with pytest.raises(MarketError, match="is damaged" if damage == "changed" else "cannot be read"):
        ModelFiles(files.folder).read(kept.sha256)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MarketError, match="cannot be written"):
        ModelFiles(tmp_path / "file").keep(model())


def test_only_durable_models_are_synchronised_and_each_once(files, monkeypatch):
    synchronised = []
    monkeypatch.setattr("fl_market.model_files.synchronise_file", lambda path: synchronised.append(path.name))
    one, _ = files.keep(model(1.0)), files.keep(model(2.0))
    files.synchronise([one])
    files.synchronise([one, files.keep(model(3.0))])
    assert [name.removesuffix(".safetensors") for name in synchronised] == [digest(model(1.0)), digest(model(3.0))]


def test_a_file_is_plain_safetensors(files):
    kept = files.keep(model())
    assert isinstance(kept, ModelFile)
    with safe_open(kept.path, "pt") as file:
        assert set(file.keys()) == set(model())
