"""Files and folders that are there whole or not at all."""

import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Callable
from typing import Any, BinaryIO

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file that takes the place of an earlier one only when it is complete.

    A crash, a full disk or Ctrl-C leaves the earlier file, or none, as it was.

    Args:
      path: the file; its folder must exist.
      write: writes the content to the open binary file that it is given.

    Raises:
      OSError: the folder does not exist or cannot be written to.
    """
    path = pathlib.Path(path)
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
    """Writes a folder that is there under its name only when it is complete.

    An earlier folder of that name is removed just before; a crash between the two leaves neither.

    Args:
      path: the folder; the one above it must exist.
      write: writes the content into the empty folder that it is given.

    Raises:
      OSError: the folder above does not exist or cannot be written to.
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
    """Removes a folder, if there is one, so that nobody ever finds a part of it under its name."""
    doomed = _temporary(path)
    try:
        path.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed)


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes what a process that was killed has left half written or half removed in a folder.

    Whoever calls it is the only one that writes to the folder.
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
