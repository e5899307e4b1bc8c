"""Folders with one writer, also if somebody removes or renames them meanwhile."""

import contextlib
import errno

import pytest

from fedjax_core.program import _locks as module
from fedjax_core.program._files import append, remove_folder, write_atomically, write_folder_atomically
from fedjax_core.program._locks import sole_writer


def test_folders_are_made_and_hold_nothing(tmp_path):
    with sole_writer(tmp_path / "runs" / "first", tmp_path / "second"):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["first", "runs", "second"]


@pytest.mark.parametrize("failure", [None, KeyboardInterrupt])
def test_a_folder_is_free_again_afterwards(failure, tmp_path):
    entered = 0
    for _ in range(2):
        with contextlib.suppress(KeyboardInterrupt), sole_writer(tmp_path):
            entered += 1
            if failure:
                raise failure
    assert entered == 2


def test_what_is_refused_holds_nothing(tmp_path):
    with sole_writer(tmp_path / "b"):
        refused = pytest.raises(BlockingIOError, match=r"another run is writing to .*b; wait for its end")
        with refused, sole_writer(tmp_path / "a", tmp_path / "b"):
            pytest.fail("not to be reached")
        with sole_writer(tmp_path / "a"):
            pass


def test_of_no_folder():
    with sole_writer() as first, sole_writer() as second:
        assert first is None and second is None


def _without_fcntl(patch):
    patch.setattr(module, "fcntl", None)


def _without_locks(patch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "no locks available")

    patch.setattr(module.fcntl, "flock", refuse)


@pytest.mark.parametrize("lack", [_without_fcntl, _without_locks])
def test_a_system_without_locks_refuses_nobody(lack, tmp_path, monkeypatch):
    lack(monkeypatch)
    with sole_writer(tmp_path), sole_writer(tmp_path):
        (tmp_path / "written").write_text("")
    assert (tmp_path / "written").exists()


WRITES = {
    "a file": lambda folder: write_atomically(folder / "file", lambda file: None),
    "a file within": lambda folder: write_atomically(folder / "inner" / "file", lambda file: None),
    "a line": lambda folder: append(folder / "line", b""),
    "a folder": lambda folder: write_folder_atomically(folder / "new", lambda new: None),
    "no folder": lambda folder: remove_folder(folder / "inner"),
}


def _made(folder):
    (folder / "inner").mkdir(parents=True)
    (folder / "line").write_bytes(b"")


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_is_in_its_place_is_not_written_to(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the lock is of the folder, however its path is given
    folder = tmp_path / "run"
    _made(folder)
    with sole_writer(folder.relative_to(tmp_path)):
        write(folder)
        folder.rename(tmp_path / "moved")
        with pytest.raises(FileNotFoundError, match="run was removed or renamed while a run was writing to it"):
            write(folder)
        _made(folder)
        before = sorted(folder.rglob("*"))
        with pytest.raises(FileNotFoundError, match="move the folder back and resume the run"):
            write(folder)
        assert sorted(folder.rglob("*")) == before
        (tmp_path / "run").rename(tmp_path / "other")
        (tmp_path / "moved").rename(folder)
        if write is not WRITES["no folder"]:
            write(folder)
    folder.rename(tmp_path / "later")


def test_a_run_of_this_process_keeps_its_path(tmp_path):
    with sole_writer(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "moved")
        refused = pytest.raises(BlockingIOError, match=r"another run is writing to .*run; wait for its end")
        with refused, sole_writer(tmp_path / "run"):
            pytest.fail("not to be reached")
    with sole_writer(tmp_path / "run"):
        pass


def test_a_folder_is_checked_once_more_before_it_gets_its_name(tmp_path):
    def write(new):
        (tmp_path / "run").rename(tmp_path / "moved")
        (tmp_path / "run").mkdir()

    with sole_writer(tmp_path / "run"), pytest.raises(FileNotFoundError):
        write_folder_atomically(tmp_path / "run" / "folder", write)
    assert not any((tmp_path / "run").iterdir())
