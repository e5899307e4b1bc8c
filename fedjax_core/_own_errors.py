"""Errors that the user's own functions raise: they keep their class, and a note tells where."""

import contextlib
import os
import traceback
from collections.abc import Iterator

import jax
import numpy as np

# With the separator, so that a folder `fedjax_core_experiments` does not count as this package.
_LIBRARIES = tuple(os.path.dirname(os.path.abspath(file)) + os.sep for file in (__file__, jax.__file__, np.__file__))


def raise_if_own(error: Exception, note: str) -> None:
    """Raises an error again, with a note, if the user's own code has raised it; otherwise does nothing.

    A plain `TypeError`, or an error about a field that is not there, is left to the caller, who shows the types.

    Args:
      error: an error that a function of the user's has raised, or a library that it has called.
      note: where and why it was called.

    Example:
      >>> def loss(predictions):
      ...     raise LookupError("no such table")
      >>> try:
      ...     loss(3)
      ... except Exception as error:
      ...     raise_if_own(error, "the loss cannot be traced")
      Traceback (most recent call last):
      LookupError: no such table
      the loss cannot be traced
    """
    if type(error) in (TypeError, KeyError, IndexError, AttributeError) or not _is_own(error):
        return
    error.add_note(note)
    raise error


def _is_own(error: Exception) -> bool:
    """Whether it was raised outside of this package, JAX, NumPy and whatever else is installed."""
    if type(error).__module__.partition(".")[0] in ("jax", "jaxlib"):
        return False  # JAX leaves its own frames out of the traceback
    *_, innermost = traceback.walk_tb(error.__traceback__)
    file = innermost[0].f_code.co_filename
    return not file.startswith(_LIBRARIES) and "site-packages" not in file


@contextlib.contextmanager
def noted(note: str) -> Iterator[None]:
    """Adds a note to an error that is raised in the context.

    Example:
      >>> with noted("in the sampler, for round 3"):
      ...     raise LookupError("no such table")
      Traceback (most recent call last):
      LookupError: no such table
      in the sampler, for round 3
    """
    try:
        yield
    except Exception as error:
        error.add_note(note)
        raise
