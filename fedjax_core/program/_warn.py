"""Warnings that point at the user's program."""

import os
import pathlib
import sys
import warnings

_PACKAGE = str(pathlib.Path(__file__).parent.parent) + os.sep


def warn(message: str) -> None:
    """Issues a `UserWarning` that names the user's line, however many calls of this package lie in between."""
    # A fixed `stacklevel` would name a line of this package as soon as somebody adds a function in between.
    frame, level = sys._getframe(1), 2
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
