"""The folder of a run."""

import os
import time
from typing import Any

from fedjax_core.program._curves import save_curves
from fedjax_core.program._files import remove_leftovers, write_atomically
from fedjax_core.program._history import History
from fedjax_core.program._paths import checked_name, checked_path
from fedjax_core.program._round_lines import release_to_csv, save_csv
from fedjax_core.program._warn import warn
from fedjax_core.program._weights import save_weights

NAMES_IN_FOLDER = frozenset(
    ["run.json", "config.toml", "metrics.csv", "weights.npz", "curves.png", "checkpoints", "exports"]
)
"""The names of what a run and the command line write into the folder, besides the folders of evaluations."""


class RunFolder:
    """The folder for the files of one run: a new folder, or that of a run to resume.

    Each file is replaced as a whole or grows by a line per round, so a crash leaves its previous content intact.

    Attributes:
      path: the folder, a `pathlib.Path`.

    Example:
      >>> import pathlib, tempfile
      >>> folder = RunFolder(pathlib.Path(tempfile.mkdtemp(), "runs", "first"))
      >>> folder.write_text("notes.txt", "a run of one round")
      >>> [file.name for file in folder.path.iterdir()]
      ['notes.txt']
      >>> RunFolder(folder.path)
      Traceback (most recent call last):
      FileExistsError: a run needs a folder of its own, got ...first, which is not empty; choose another...
    """

    def __init__(self, folder: str | os.PathLike, resume: bool = False):
        """Creates the folder and its parents.

        Args:
          folder: the path of the folder.
          resume: whether the folder may hold an earlier run, which is then resumed; otherwise it must be empty or not
            exist. No other process may be writing to it, since files that a killed process left half written are
            removed.

        Raises:
          TypeError: `folder` is not a path.
          ValueError: no folder can have that path.
          FileExistsError: the folder is not empty and `resume` is not set, or it is a file.
          OSError: it cannot be created.
        """
        self.path = checked_path("RunFolder(folder=...)", folder, "write RunFolder('runs/first')")
        if not resume and self.path.is_dir() and any(self.path.iterdir()):
            raise FileExistsError(
                f"a run needs a folder of its own, got {self.path}, which is not empty; choose another name, "
                "RunFolder.dated('runs', 'name') for a new one each time, or RunFolder(folder, resume=True) to resume"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path)
        self._table = self._history = None
        self._written = 0

    @classmethod
    def dated(cls, parent: str | os.PathLike, name: str) -> "RunFolder":
        """Creates a folder named after the time and `name`, with a number appended if that name is taken.

        Args:
          parent: the folder of all runs; created if it does not exist.
          name: a name for the run, for example `"digits"`.

        Raises:
          TypeError: `parent` is not a path, or `name` is not a string.
          ValueError: `name` is not the name of a folder, but a path.
          OSError: the folder cannot be created.

        Example:
          >>> import tempfile
          >>> runs = tempfile.mkdtemp()
          >>> first, second = RunFolder.dated(runs, "digits"), RunFolder.dated(runs, "digits")
          >>> first.path != second.path
          True
        """
        parent = checked_path("RunFolder.dated(parent=...)", parent, "write RunFolder.dated('runs', 'digits')")
        checked_name("RunFolder.dated(name=...)", name, "write RunFolder.dated('runs', 'digits')")
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
        """Writes a text file in UTF-8; `name` is its name within the folder."""
        checked_name("RunFolder.write_text(name=...)", name, "write folder.write_text('notes.txt', text)")
        write_atomically(self.path / name, lambda file: file.write(text.encode()))

    def write_metrics(self, history: History) -> None:
        """Updates `metrics.csv` to the history: the first call writes all of it, later ones append the new rounds.

        Example:
          >>> import tempfile
          >>> from fedjax_core.program import Record
          >>> folder, history = RunFolder(tempfile.mkdtemp()), History()
          >>> for number in (1, 2):
          ...     history.append(Record(number, 0.5 * number, 0.5, 10, {"train/loss": 1 / number}, {}))
          ...     folder.write_metrics(history)
          >>> print((folder.path / "metrics.csv").read_text().strip())
          round,seconds,round_seconds,num_clients,train/loss
          1,0.5,0.5,10,1.0
          2,1.0,0.5,10,0.5
        """
        if not len(history):
            return
        path = self.path / "metrics.csv"
        if history is not self._history:  # the first call, or another run in this folder
            save_csv(history, path)
            self._table, self._history = release_to_csv(path), history
            self._written = len(history)
        assert self._table is not None
        for record in history.records[self._written :]:
            self._table.release(record.row(), record.round)
        self._written = len(history)

    def finish(self, weights: Any, history: History) -> None:
        """Writes `weights.npz`, `metrics.csv` and `curves.png`.

        Without matplotlib, or without a metric to draw, no curves are written, and a warning says why.

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
