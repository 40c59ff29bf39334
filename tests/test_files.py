import os
from pathlib import Path

import pytest

from fl_market.files import synchronise, write_whole


@pytest.fixture
def events(monkeypatch):
    """The synchronisations and renames in their order, each by the path that it concerns."""
    seen = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        seen.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        real_fsync(descriptor)

    def replace(source, target):
        seen.append(("rename", Path(target).name))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return seen


DESCRIPTORS = Path("/proc/self/fd")
needs_proc = pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="needs /proc to name what is synchronised")


@needs_proc
def test_the_file_is_durable_before_its_name_and_its_name_before_the_return(tmp_path, events):
    folder = tmp_path / "folder"
    folder.mkdir()
    write_whole(folder / "file.json", b"new")
    assert events == [("fsync", "file.json.unfinished"), ("rename", "file.json"), ("fsync", "folder")]
    assert [path.name for path in folder.iterdir()] == ["file.json"], "nothing unfinished is left"


@needs_proc
def test_a_folder_is_synchronised_and_closed(tmp_path, events):
    before = len(list(DESCRIPTORS.iterdir()))
    synchronise(tmp_path)
    assert events == [("fsync", tmp_path.name)]
    assert len(list(DESCRIPTORS.iterdir())) == before


def test_the_whole_content_is_on_its_way_when_the_file_is_synchronised(tmp_path, monkeypatch):
    """A buffer that was not flushed would not be covered."""
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    write_whole(tmp_path / "file", b"x" * 1000)
    assert sizes[0] == 1000


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_earlier_content(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    write_whole(path, b"earlier")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, step, full)
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, b"later")
    assert path.read_bytes() == b"earlier"
    write_whole(path, b"later")
    assert path.read_bytes() == b"later"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_two_files_of_one_stem_do_not_share_an_unfinished_file(tmp_path, monkeypatch):
    names = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (names.append(Path(source).name), real(source, target)))
    write_whole(tmp_path / "a.json", b"")
    write_whole(tmp_path / "a.txt", b"")
    assert len(set(names)) == 2
