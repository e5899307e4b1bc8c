"""The folder of a run."""

import os
import pathlib
import time
import warnings
from typing import Any

from fedjax_core.program._atomic import write_atomically
from fedjax_core.program._csv import save_csv
from fedjax_core.program._curves import save_curves
from fedjax_core.program._history import History
from fedjax_core.program._weights import save_weights

_MAX_SHARE = 0.02  # of a run's time is spent on writing the metrics while it runs


class RunFolder:
    """A new folder for what one run leaves; nothing is ever overwritten.

    Every file in it is written whole: a crash leaves the file of before.

    Attributes:
      path: a `pathlib.Path`.

    Example:
      >>> import tempfile
      >>> folder = RunFolder(pathlib.Path(tempfile.mkdtemp(), "runs", "first"))
      >>> folder.write_text("notes.txt", "a run of one round")
      >>> [file.name for file in folder.path.iterdir()]
      ['notes.txt']
      >>> RunFolder(folder.path)
      Traceback (most recent call last):
      FileExistsError: a run needs a folder of its own, got ...first, which is not empty; choose another...
    """

    def __init__(self, path: str | os.PathLike):
        """Makes the folder and those above it.

        Args:
          path: the folder; it must not exist, or be empty.

        Raises:
          FileExistsError: it is not empty, or is a file.
          OSError: it cannot be made.
        """
        self.path = pathlib.Path(path)
        if self.path.is_dir() and any(self.path.iterdir()):
            raise FileExistsError(
                f"a run needs a folder of its own, got {self.path}, which is not empty; choose another name, or "
                "RunFolder.dated('runs', 'name') for a new one each time"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._next_write = 0.0

    @classmethod
    def dated(cls, parent: str | os.PathLike, name: str) -> "RunFolder":
        """Makes a folder that is called after the time and `name`, with a number if that is taken.

        Args:
          parent: the folder of all runs, made if it does not exist.
          name: what the run is, for example `"digits"`.

        Example:
          >>> import tempfile
          >>> runs = tempfile.mkdtemp()
          >>> first, second = RunFolder.dated(runs, "digits"), RunFolder.dated(runs, "digits")
          >>> first.path != second.path
          True
        """
        parent = pathlib.Path(parent)
        parent.mkdir(parents=True, exist_ok=True)
        label = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{name}"
        number = 1
        while True:
            try:
                path = parent / (label if number == 1 else f"{label}_{number}")
                path.mkdir()
                return cls(path)
            except FileExistsError:
                number += 1

    def write_text(self, name: str, text: str) -> None:
        """Writes a text file in UTF-8."""
        write_atomically(self.path / name, lambda file: file.write(text.encode()))

    def write_metrics(self, history: History) -> None:
        """Writes `metrics.csv` now, unless writing it has lately taken too much of the run's time.

        A run of many short rounds would otherwise do little else; `finish` writes all of them.
        """
        start = time.monotonic()
        if start >= self._next_write:
            save_csv(history, self.path / "metrics.csv")
            end = time.monotonic()
            self._next_write = end + (end - start) / _MAX_SHARE

    def finish(self, weights: Any, history: History) -> None:
        """Writes `weights.npz`, `metrics.csv` and `curves.png`.

        Without matplotlib, or without a metric to draw, there are no curves, and a warning says why.

        Args:
          weights: the model's weights, a pytree of arrays.
          history: what the run measured.
        """
        save_weights(weights, self.path / "weights.npz")
        save_csv(history, self.path / "metrics.csv")
        try:
            save_curves(history, self.path / "curves.png", title=self.path.name)
        except (ImportError, ValueError) as error:
            warnings.warn(str(error), stacklevel=2)
