"""Folders to which only one run at a time may write."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

_HELD: dict[pathlib.Path, int] = {}
"""The open folders that this process has locked, by their absolute paths.

A lock belongs to the process, as this table does: whatever writes to a folder asks it, in whichever thread and however
it got the path."""


@contextlib.contextmanager
def sole_writer(*folders: pathlib.Path) -> Iterator[None]:
    """Locks folders while the context is open, so that no other run, of this process or another, writes to them.

    The folders are created if they do not exist. The lock is on the folder itself: it leaves no file, and ends with the
    process that holds it. If somebody removes or renames the folder, the next write to its path fails, so that two runs
    never write to the same folder. On a system that cannot lock folders, nobody is refused.

    Args:
      *folders: the folders to lock.

    Raises:
      FileExistsError: one of them is a file.
      BlockingIOError: another run is writing to one of them.

    Example:
      >>> import tempfile
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> with sole_writer(folder), sole_writer(folder):
      ...     pass
      Traceback (most recent call last):
      BlockingIOError: another run is writing to ...; wait for its end, or give this run a folder of its own...
    """
    with contextlib.ExitStack() as locks:
        for folder in folders if fcntl else ():
            path = pathlib.Path(os.path.abspath(folder))
            if not _is_unmoved(path):  # a run of this process that still has its path
                raise _refused(folder)
            _make(folder)
            handle = os.open(folder, os.O_RDONLY)
            locks.callback(os.close, handle)
            _lock(handle, folder)
            _HELD[path] = handle
            locks.callback(_HELD.pop, path, None)
        yield


def check_lock(path: pathlib.Path) -> None:
    """Checks, before something is written, that the locked folder that it is in is still the one at its path.

    Raises:
      FileNotFoundError: the folder was removed or renamed; another run may have made it anew.
    """
    inner = pathlib.Path(os.path.abspath(path))
    for folder in (inner, *inner.parents):
        if not _is_unmoved(folder):
            raise FileNotFoundError(
                f"{folder} was removed or renamed while a run was writing to it, so {path} cannot be written; move the "
                "folder back and resume the run, or give it a folder of its own"
            )


def _is_unmoved(folder: pathlib.Path) -> bool:
    """Whether a folder, if it is locked, is still the one at its path."""
    try:
        return folder not in _HELD or os.path.samestat(os.fstat(_HELD[folder]), folder.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _make(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise FileExistsError(f"a run needs a folder, got {folder}, which is a file; choose another name") from None


def _lock(handle: int, folder: pathlib.Path) -> None:
    assert fcntl is not None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _refused(folder) from None
    except OSError:
        pass  # a file system without such locks


def _refused(folder: pathlib.Path) -> BlockingIOError:
    return BlockingIOError(
        f"another run is writing to {folder}; wait for its end, or give this run a folder of its own. Run.watch() and "
        "Run.evaluate() may run at the same time"
    )
