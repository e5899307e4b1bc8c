"""Files that are there whole or not at all."""

import os
import pathlib
import uuid
from collections.abc import Callable
from typing import BinaryIO


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file that takes the place of an earlier one only when it is complete.

    A crash, a full disk or Ctrl-C leaves the earlier file, or none, as it was.

    Args:
      path: the file; its folder must exist.
      write: writes the content to the open binary file that it is given.

    Raises:
      OSError: the folder does not exist or cannot be written to.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
