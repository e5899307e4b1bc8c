"""Folders to which one run at a time writes."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None


@contextlib.contextmanager
def sole_writer(*folders: pathlib.Path) -> Iterator[None]:
    """Refuses to write where another run does, of this process or another one.

    The folders are made, and themselves locked, so that no file is left and a process that is killed leaves no lock.
    Where the system does not lock folders, none is refused.

    Args:
      *folders: for as long as the context is open.

    Raises:
      FileExistsError: one of them is a file.
      BlockingIOError: another run writes to one of them.

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
            "Run.watch() and Run.evaluate() may go on beside it"
        ) from None
    except OSError:
        pass  # a file system without such locks
