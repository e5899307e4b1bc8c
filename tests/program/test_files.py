import contextlib
import errno
import stat

import pytest

from fedjax_core.program import _files as module
from fedjax_core.program._files import (
    remove_folder,
    remove_leftovers,
    sole_writer,
    write_atomically,
    write_folder_atomically,
)


def test_replaces_the_file(tmp_path):
    path = tmp_path / "file"
    for text in (b"one", b"two"):
        write_atomically(path, lambda file, text=text: file.write(text))
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_earlier_file(tmp_path, failure):
    path = tmp_path / "file"
    path.write_bytes(b"whole")

    def write(file):
        file.write(b"ha")
        file.flush()
        raise failure

    with pytest.raises(failure):
        write_atomically(path, write)
    assert path.read_bytes() == b"whole"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "file", lambda file: None)


def test_others_may_read_the_file(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_bytes(b"")
    write_atomically(tmp_path / "file", lambda file: None)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_a_folder_takes_the_place_of_an_earlier_one(tmp_path):
    path = tmp_path / "folder"
    for name in ("one", "two"):
        write_folder_atomically(path, lambda folder, name=name: (folder / name).write_bytes(b""))
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["folder", "folder/two"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_earlier_folder(tmp_path, failure):
    path = tmp_path / "folder"
    write_folder_atomically(path, lambda folder: (folder / "whole").write_bytes(b""))

    def write(folder):
        (folder / "ha").write_bytes(b"")
        raise failure

    with pytest.raises(failure):
        write_folder_atomically(path, write)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["folder", "folder/whole"]


def test_a_folder_that_is_gone_is_removed(tmp_path):
    remove_folder(tmp_path / "none")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    remove_folder(tmp_path / "folder")
    assert not any(tmp_path.iterdir())


def test_leftovers_are_those_of_this_module(tmp_path, monkeypatch):
    """A process dies just before it gives a file and a folder their names, and while it removes a folder."""

    class DeadError(BaseException):
        pass

    def die(*args, **kwargs):
        raise DeadError

    (tmp_path / "removed").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", die)
        patched.setattr("shutil.rmtree", die)
        patched.setattr("pathlib.Path.unlink", die)
        for act in (
            lambda: write_atomically(tmp_path / "file", lambda file: None),
            lambda: write_folder_atomically(tmp_path / "folder", die),
            lambda: remove_folder(tmp_path / "removed"),
        ):
            with pytest.raises(DeadError):
                act()
    others = {"file", ".hidden", ".a.b", "name.0123456789abcdef0123456789abcdef"}
    for name in others:
        (tmp_path / name).write_bytes(b"")
    assert len(list(tmp_path.iterdir())) == 3 + len(others)
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == others


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
