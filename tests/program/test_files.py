import gc
import os
import resource
import stat

import numpy as np
import pytest

from fedjax_core.program._files import (
    append,
    remove_folder,
    remove_leftovers,
    write_atomically,
    write_folder_atomically,
)
from fedjax_core.program._weights import save_weights


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


def test_leftovers_of_a_folder_that_does_not_exist(tmp_path):
    remove_leftovers(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def _linked(tmp_path):
    """A symbolic link to a folder that somebody keeps elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_bytes(b"kept")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "link"


@pytest.mark.parametrize("act", ["remove", "replace", "leftover"])
def test_a_link_gives_way_and_its_folder_stays(act, tmp_path):
    link = _linked(tmp_path)
    if act == "remove":
        remove_folder(link)
    elif act == "replace":
        write_folder_atomically(link, lambda folder: (folder / "new").write_bytes(b""))
    else:
        link.rename(tmp_path / f".link.{'0' * 32}")
        remove_leftovers(tmp_path)
    names = {"elsewhere", "elsewhere/kept"} | ({"link", "link/new"} if act == "replace" else set())
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == names
    assert not link.is_symlink()


@pytest.mark.parametrize("act", [remove_folder, lambda path: write_folder_atomically(path, lambda folder: None)])
def test_a_file_in_the_place_of_a_folder(act, tmp_path):
    (tmp_path / "3").write_bytes(b"")
    act(tmp_path / "3")
    assert not (tmp_path / "3").is_file() and len(list(tmp_path.iterdir())) <= 1


def test_a_leftover_that_cannot_be_removed_stops_nobody(tmp_path, monkeypatch):
    leftover = tmp_path / f".3.{'0' * 32}"
    leftover.mkdir()
    monkeypatch.setattr("os.rmdir", lambda *args, **kwargs: (_ for _ in ()).throw(PermissionError))
    remove_leftovers(tmp_path)
    assert leftover.exists()


def test_an_earlier_folder_stays_if_the_new_one_cannot_take_its_name(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    write_folder_atomically(path, lambda folder: (folder / "whole").write_bytes(b""))
    rename, asked = type(path).rename, []

    def fail_second(self, target):
        asked.append(target)
        if len(asked) == 2:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr("pathlib.Path.rename", fail_second)
    with pytest.raises(OSError, match=r"No space left on device: '.*/folder'"):
        write_folder_atomically(path, lambda folder: None)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["folder", "folder/whole"]


def test_all_is_on_the_disk_before_and_after_it_gets_its_name(tmp_path, monkeypatch):
    """A power cut keeps what has been synced: the content before the name, and then the name itself."""
    synced, fsync, named = [], os.fsync, []

    def sync(handle):
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    def write(folder):
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_bytes(b"content")

    rename = type(tmp_path).rename

    def renamed(self, target):
        if target == tmp_path / "folder":
            named.extend(synced)
        return rename(self, target)

    monkeypatch.setattr("os.fsync", sync)
    monkeypatch.setattr("pathlib.Path.rename", renamed)
    write_folder_atomically(tmp_path / "folder", write)
    folder = tmp_path / "folder"
    assert set(named) == {path.stat().st_ino for path in (folder, folder / "inner", folder / "inner" / "file")}
    assert synced[-1] == tmp_path.stat().st_ino
    write_atomically(tmp_path / "file", lambda file: None)
    assert synced[-2:] == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]


# What the system refuses.


@pytest.fixture
def full():
    """No file may become larger than a number of bytes, like on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1, 10, 100, 200, 250, 500, 800, 900])
def test_on_a_full_disk_the_file_is_named_and_the_earlier_one_stays(size, tmp_path, full):
    path = tmp_path / "weights.npz"
    path.write_bytes(b"whole")
    full(size)
    with pytest.raises(OSError, match=r"File too large: '.*/weights.npz'"):
        save_weights({"a": np.ones(100), "b": np.ones(100)}, path)
    assert path.read_bytes() == b"whole"
    assert [p.name for p in tmp_path.iterdir()] == ["weights.npz"]
    gc.collect()  # an archive that was left open would fail once more, with a warning


def test_a_line_that_cannot_be_appended_leaves_the_file(tmp_path, full):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"round\n")
    full(10)
    with pytest.raises(OSError, match=r"File too large: '.*/metrics.csv'"):
        append(path, b"1234567890\n")
    assert path.read_bytes() == b"round\n"


def test_a_file_in_a_folder_that_cannot_be_written_is_named(tmp_path, full):
    full(3)
    with pytest.raises(OSError, match=r"File too large: '.*/folder/inner'"):
        write_folder_atomically(
            tmp_path / "folder",
            lambda folder: write_atomically(folder / "inner", lambda file: file.write(b"too long")),
        )
    assert not any(tmp_path.iterdir())


class OwnError(OSError):
    pass


@pytest.mark.parametrize(
    "error", [OwnError(5, "mine"), OSError("mine"), FileNotFoundError(2, "mine", "/elsewhere/template"), ValueError()]
)
def test_errors_of_the_one_who_writes_stay_as_they_are(error, tmp_path):
    def write(folder):
        raise error

    with pytest.raises(type(error)) as raised:
        write_folder_atomically(tmp_path / "folder", write)
    assert raised.value is error
