"""Checks of the names and the paths of files and folders that a user gives."""

import os
import pathlib
from typing import Any

from fedjax_core import _checks

_MOST_BYTES = 200  # file systems take 255, and a file that is being written has a longer name


def checked_name(call: str, name: Any, repair: str) -> str:
    """A name for a file or a folder within another folder: what is written under it stays in there.

    Args:
      call: the function and the argument, to show, as `name` and `repair`: see `_checks.message`.
      name: the argument.
      repair: what to write instead.

    Raises:
      TypeError: `name` is not a string.
      ValueError: it is not a single component of a path on every system, or begins with a dot, as the names of files
        do that are being written.

    Example:
      >>> checked_name("export_weights(name=...)", "../models", "write name='weights'")
      Traceback (most recent call last):
      ValueError: export_weights(name=...) must be a name without a folder, ..., got '../models'; write name='weights'
    """
    rule = "a name without a folder, of printable characters and not beginning with a dot"
    wrong = _checks.message(call, rule, name, repair)
    if not isinstance(name, str):
        raise TypeError(wrong)
    # Windows has all separators of other systems and more.
    is_component = name.isprintable() and name == pathlib.PureWindowsPath(name).name
    if not name or not is_component or name.startswith("."):
        raise ValueError(wrong)
    if len(name.encode()) > _MOST_BYTES:
        raise ValueError(_checks.message(call, f"a name of at most {_MOST_BYTES} bytes", name, repair))
    return name


def checked_path(call: str, path: Any, repair: str, rule: str = "a path") -> pathlib.Path:
    """The path of a file or a folder.

    Args:
      call: the function and the argument, to show, as `path`, `repair` and `rule`: see `_checks.message`.
      path: the argument.
      repair: what to write instead.
      rule: what the argument must be.

    Raises:
      TypeError: `path` is neither a string nor a `pathlib.Path`.
      ValueError: it is empty, or has a character that no path can have.

    Example:
      >>> checked_path("Checkpoints(folder=...)", "", "write 'runs/first/checkpoints'")
      Traceback (most recent call last):
      ValueError: Checkpoints(folder=...) must be a path, got ''; write 'runs/first/checkpoints'
    """
    wrong = _checks.message(call, rule, path, repair)
    try:
        text = os.fspath(path)
    except TypeError:
        raise TypeError(wrong) from None
    if not isinstance(text, str):
        raise TypeError(wrong)
    try:
        possible = bool(text) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ValueError(wrong)
    return pathlib.Path(text)
