"""Atomic writes of files and folders, and folders to which only one run at a time may write."""

import contextlib
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from fedjax_core.program._paths import checked_path

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file that replaces an earlier one only when it is complete.

    A crash, a full disk or Ctrl-C leaves the earlier file unchanged, or no file if there was none.

    Args:
      path: the file; its folder must exist.
      write: a function that writes the content to an open binary file.

    Raises:
      OSError: the folder does not exist or cannot be written to.
    """
    path = checked_path("the file to write", path, "write a path such as 'runs/first/weights.npz'")
    temporary = _temporary(path)
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_folder_atomically(path: str | os.PathLike, write: Callable[[pathlib.Path], None]) -> None:
    """Writes a folder that gets its name only when it is complete.

    An earlier folder of that name is removed just before; a crash between the two steps leaves neither folder.

    Args:
      path: the folder; its parent must exist.
      write: a function that writes the content into an empty folder.

    Raises:
      OSError: the parent does not exist or cannot be written to.
    """
    path = pathlib.Path(path)
    temporary = _temporary(path)
    try:
        temporary.mkdir()
        write(temporary)
        remove_folder(path)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_folder(path: pathlib.Path) -> None:
    """Removes a folder, if it exists, so that nobody ever finds a part of it under its name."""
    doomed = _temporary(path)
    try:
        path.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed)


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes what a killed process has left half written or half removed in a folder.

    Nobody else may be writing to the folder.
    """
    for path in folder.iterdir():
        if not _TEMPORARY.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _temporary(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None


@contextlib.contextmanager
def sole_writer(*folders: pathlib.Path) -> Iterator[None]:
    """Locks folders while the context is open, so that no other run, of this process or another, writes to them.

    The folders are created if they do not exist. The lock is on the folder itself: it leaves no file, and ends with the
    process that holds it. On a system that cannot lock folders, nobody is refused.

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
            _make(folder)
            handle = os.open(folder, os.O_RDONLY)
            locks.callback(os.close, handle)
            _lock(handle, folder)
        yield


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
        raise BlockingIOError(
            f"another run is writing to {folder}; wait for its end, or give this run a folder of its own. "
            "Run.watch() and Run.evaluate() may run at the same time"
        ) from None
    except OSError:
        pass  # a file system without such locks
