"""Atomic writes of files and folders, and what a killed process leaves of them."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from fedjax_core.program._locks import check_lock
from fedjax_core.program._paths import checked_path

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file that replaces an earlier one only when it is complete.

    A crash, a power cut, a full disk or Ctrl-C leaves the earlier file unchanged, or no file if there was none.

    Args:
      path: the file; its folder must exist.
      write: a function that writes the content to an open binary file.

    Raises:
      OSError: the folder does not exist or cannot be written to; the error names the file.
    """
    path = checked_path("the file to write", path, "write a path such as 'runs/first/weights.npz'")
    check_lock(path)
    temporary = _temporary(path)
    with _naming(temporary, path, whatever_follows=True):
        try:
            with open(temporary, "xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync(path.parent)
        except BaseException:
            _remove(temporary)
            raise


def append(path: pathlib.Path, content: bytes) -> None:
    """Appends to a file; if that fails, the file keeps its content.

    Raises:
      OSError: it cannot be written to; the error names the file.
    """
    check_lock(path)
    size = path.stat().st_size
    with _naming(path, path):
        try:
            with open(path, "ab") as file:
                file.write(content)
        except BaseException:
            os.truncate(path, size)
            raise


def write_folder_atomically(path: str | os.PathLike, write: Callable[[pathlib.Path], None]) -> None:
    """Writes a folder that gets its name only when it is complete, and is on the disk when this returns.

    An earlier folder of that name gives it up just before; a crash between the two steps leaves neither folder.

    Args:
      path: the folder; its parent must exist.
      write: a function that writes the content into an empty folder.

    Raises:
      OSError: the parent does not exist or cannot be written to; the error names the folder.
    """
    path = pathlib.Path(path)
    check_lock(path)
    temporary = _temporary(path)
    with _naming(temporary, path):
        try:
            temporary.mkdir()
            write(temporary)
            _sync_all(temporary)
            check_lock(path)  # again, since writing takes time
            doomed = _replace_folder(temporary, path)
            _sync(path.parent)
        except BaseException:
            _remove(temporary)
            raise
    _remove(doomed)


def remove_folder(path: pathlib.Path) -> None:
    """Removes a folder, if it exists, so that nobody ever finds a part of it under its name."""
    check_lock(path)
    _remove(_moved_away(path))


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes what a killed process has left half written or half removed in a folder, if the folder exists.

    Nobody else may be writing to the folder.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            _remove(path)


def _temporary(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def _replace_folder(new: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Gives a folder its name, and returns the new name of what was there before, if there was anything."""
    doomed = _moved_away(path)
    try:
        new.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            doomed.rename(path)
        raise
    return doomed


def _moved_away(path: pathlib.Path) -> pathlib.Path:
    """The new name of what was at a path, if there was anything."""
    doomed = _temporary(path)
    with contextlib.suppress(FileNotFoundError):
        path.rename(doomed)
    return doomed


def _remove(path: pathlib.Path) -> None:
    """Removes what is at a path, as far as possible: under its hidden name the rest disturbs nobody."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink()


def _sync_all(folder: pathlib.Path) -> None:
    """Waits until a folder and all that it holds are on the disk, so that a power cut leaves no empty files."""
    for path in folder.rglob("*"):
        if path.is_file() or path.is_dir():
            _sync(path)
    _sync(folder)


def _sync(path: pathlib.Path) -> None:
    if os.name == "nt":
        return  # Windows does not open folders, nor sync what is open for reading
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot sync folders
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def _naming(temporary: pathlib.Path, path: pathlib.Path, whatever_follows: bool = False) -> Iterator[None]:
    """Names the file or folder in errors of the system that name none, or a temporary one.

    An error of another class or at another path comes from the user's own function and stays as it is.

    Args:
      temporary: the name while it is being written.
      path: its name.
      whatever_follows: whether other errors that follow from one of the system are replaced by it, too: after a write
        has failed, `zipfile` raises a ValueError.
    """
    try:
        yield
    except Exception as error:
        cause = _of_system(error) if whatever_follows else error
        if not isinstance(cause, OSError) or type(cause).__module__ != "builtins":
            raise
        at = pathlib.Path(os.fsdecode(cause.filename)) if isinstance(cause.filename, str | bytes) else temporary
        if cause.errno is None or not at.is_relative_to(temporary):
            raise
        # This is of the subclass that belongs to the number.
        raise OSError(cause.errno, cause.strerror, str(path / at.relative_to(temporary))) from None


def _of_system(error: BaseException | None) -> BaseException | None:
    """The first error of the system in the chain of errors that led to this one."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
