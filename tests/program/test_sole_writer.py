import contextlib
import errno

import pytest

from fedjax_core.program import _sole_writer as module
from fedjax_core.program._sole_writer import sole_writer


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
