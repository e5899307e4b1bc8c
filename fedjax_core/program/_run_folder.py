"""The folder of a run."""

import os
import pathlib
import time
from typing import Any

from fedjax_core.program._curves import save_curves
from fedjax_core.program._files import remove_leftovers, write_atomically
from fedjax_core.program._history import History
from fedjax_core.program._round_lines import release_to_csv, save_csv
from fedjax_core.program._warn import warn
from fedjax_core.program._weights import save_weights


class RunFolder:
    """A folder for what one run leaves: a new one, or that of a run to be continued.

    A file in it is written whole, or grows by a line a round: a crash leaves what there was before.

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

    def __init__(self, folder: str | os.PathLike, resume: bool = False):
        """Makes the folder and those above it.

        Args:
          folder: its path.
          resume: whether it may be that of a run, which is continued; else it must not exist, or be
            empty. Nobody else writes to it then: what a process that was killed left half written is removed.

        Raises:
          FileExistsError: it is not empty and `resume` is not set, or is a file.
          OSError: it cannot be made.
        """
        self.path = pathlib.Path(folder)
        if not resume and self.path.is_dir() and any(self.path.iterdir()):
            raise FileExistsError(
                f"a run needs a folder of its own, got {self.path}, which is not empty; choose another name, "
                "RunFolder.dated('runs', 'name') for a new one each time, or RunFolder(folder, resume=True) to go on"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path)
        self._table = self._history = None
        self._written = 0

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
        """Brings `metrics.csv` up to the history: all of it at first, then a line for each round since."""
        if not len(history):
            return
        path = self.path / "metrics.csv"
        if history is not self._history:  # the folder's first run, or the next one
            save_csv(history, path)
            self._table, self._history = release_to_csv(path), history
            self._written = len(history)
        assert self._table is not None
        for record in history.records[self._written :]:
            self._table.release(record.row(), record.round)
        self._written = len(history)

    def finish(self, weights: Any, history: History) -> None:
        """Writes `weights.npz`, `metrics.csv` and `curves.png`.

        Without matplotlib, or without a metric to draw, there are no curves, and a warning says why.

        Args:
          weights: the model's weights, a pytree of arrays.
          history: what the run measured.
        """
        save_weights(weights, self.path / "weights.npz")
        self.write_metrics(history)
        try:
            save_curves(history, self.path / "curves.png", title=self.path.name)
        except (ImportError, ValueError) as error:
            warn(str(error))
