"""Text files with one line per round: CSV tables and lines of JSON."""

import csv
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedjax_core.program._files import append, write_atomically
from fedjax_core.program._history import History, flatten_metrics, named_values
from fedjax_core.program._paths import checked_path
from fedjax_core.program._releases import ReleaseManager, checked_round


def save_csv(history: History, path: str | os.PathLike) -> None:
    """Writes a table with one line per round and one column per number, atomically: a crash leaves no partial file.

    A number that a round does not have is an empty cell. Numbers read back exactly.

    Args:
      history: what a run measured.
      path: the file; its folder must exist.

    Raises:
      OSError: the file cannot be written.

    Example:
      >>> import pathlib, tempfile
      >>> from fedjax_core.program import History, Record
      >>> history = History()
      >>> history.append(Record(1, 0.5, 0.5, 10, {"train/loss": 2.25}, {}))
      >>> path = pathlib.Path(tempfile.mkdtemp(), "metrics.csv")
      >>> save_csv(history, path)
      >>> print(path.read_text().strip())
      round,seconds,round_seconds,num_clients,train/loss
      1,0.5,0.5,10,2.25
    """
    columns = history.columns
    rows = (record.row() for record in history.records)
    lines = [_line(columns), *(_line([row.get(name, "") for name in columns]) for row in rows)]
    write_atomically(path, lambda file: file.writelines(f"{line}\n".encode() for line in lines))


def release_to_csv(path: str | os.PathLike) -> ReleaseManager:
    """Appends one line per round to a table with one column per number.

    The cost of a round does not grow with the number of earlier ones, except that a new column rewrites the file. A
    number that a round does not have is an empty cell. An array of up to 16 entries becomes one column per entry;
    larger arrays are left out.

    Args:
      path: the file; its folder must exist. An existing table is continued.

    Raises:
      FileNotFoundError: the folder does not exist.
      ValueError: the file exists, but is not such a table.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp(), "metrics.csv")
      >>> manager = release_to_csv(path)
      >>> manager.release({"train": {"loss": 2.25}}, 1)
      >>> manager.release({"train": {"loss": 1.5}, "eval": {"loss": 1.75}}, 2)
      >>> print(path.read_text().strip())
      round,train/loss,eval/loss
      1,2.25,
      2,1.5,1.75
    """
    return ReleaseManager(_Table(path).release)


class _Table:
    """A table in a file whose first line names the columns."""

    def __init__(self, path: str | os.PathLike):
        self._lines = RoundLines(path, lambda line: int(line.partition(",")[0]), has_header=True)
        if self._columns()[0] != "round":
            raise ValueError(
                f"{path}: the first column must be 'round', got {self._columns()[0]!r}; choose another name"
            )

    def _columns(self) -> list[str]:
        return next(csv.reader([self._lines.header or "round"]))

    def release(self, value: Any, round_num: int) -> None:
        row = {_one_line(name): number for name, number in flatten_metrics(value).items()}
        row["round"] = checked_round(round_num)
        self._lines.refresh()
        columns = self._columns()
        new = [name for name in row if name not in columns]
        columns += new
        header = _line(columns) if new or self._lines.header is None else None
        line = _line([row.get(name, "") for name in columns])
        self._lines.put(round_num, line, header, padding="," * len(new))


def _line(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([_one_line(c) if isinstance(c, str) else c for c in cells])
    return text.getvalue()


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def release_to_json_lines(path: str | os.PathLike) -> ReleaseManager:
    """Appends one line of JSON per round: an object with `round` and each value by its path.

    Arrays of any size are lists. Numbers that JSON lacks are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`, as in
    the JSON of protocol buffers; `float` reads them.

    Args:
      path: the file; its folder must exist. An existing file is continued.

    Raises:
      FileNotFoundError: the folder does not exist.
      ValueError: the file exists, but holds something else.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp(), "metrics.jsonl")
      >>> manager = release_to_json_lines(path)
      >>> manager.release({"train": {"loss": 2.25, "counts": np.array([3, 4])}}, 1)
      >>> print(path.read_text().strip())
      {"round": 1, "train/loss": 2.25, "train/counts": [3, 4]}
    """
    lines = RoundLines(path, lambda line: json.loads(line)["round"])

    def release(value: Any, round_num: int) -> None:
        own = {"round": checked_round(round_num)}
        values = {name: _plain(leaf) for name, leaf in named_values(value).items()}
        lines.put(round_num, json.dumps(own | values | own, allow_nan=False))

    return ReleaseManager(release)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


class RoundLines:
    """A text file with one line per round, in the order of the rounds.

    A new round is appended with a single write. If a crash tore the last line, or somebody else wrote meanwhile, the
    file is read again before the next line, and the torn part is removed. Any other change rewrites the file.

    Attributes:
      path: the file; it need not exist.
      header: the first line, if the file has one that belongs to no round; otherwise None.
      last: the last round in the file; -1 if there is none.
    """

    def __init__(self, path: str | os.PathLike, round_of: Callable[[str], int], has_header: bool = False):
        """Opens the file.

        Args:
          path: the file; its folder must exist.
          round_of: returns the round of a line, and raises if the line does not belong in such a file.
          has_header: whether the first line belongs to no round.

        Raises:
          FileNotFoundError: the folder does not exist.
          ValueError: the file holds something else.
        """
        self.path = checked_path("the file of a release (path=...)", path, "write 'metrics.csv'")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"{self.path}: there is no folder {self.path.parent}; create it first")
        self._round_of = round_of
        self._has_header = has_header
        self.header, self.last = None, -1
        self._size = 0
        self.refresh()

    def refresh(self) -> None:
        """Reads the file again if it is not as this process left it.

        It differs after an exception or Ctrl-C in the middle of a write, or if somebody else wrote to it.

        Raises:
          ValueError: the file holds something else.
        """
        if self._size_now() == self._size:
            return
        self.last = self._size = -1  # until the whole file is read, since Ctrl-C may interrupt the reading, too
        if self.path.exists():
            self._take_off_torn_line()
            self._read_header_and_last()
        self._size = self._size_now()

    def put(self, round_num: int, line: str, header: str | None = None, padding: str = "") -> None:
        """Writes the line of a round, which replaces the lines of this round and of later ones.

        Args:
          round_num: the number of the round.
          line: its line, without the end of line.
          header: a new first line, which rewrites the whole file; None to keep the present one.
          padding: a text to append to the lines of earlier rounds under the new first line.
        """
        round_num = checked_round(round_num)
        self.refresh()
        if header is None and round_num > self.last and self._size:
            append(self.path, f"{line}\n".encode())
        else:
            header = header or self.header
            earlier = [before + padding for before in self._lines() if self._round_of(before) < round_num]
            lines = [*([header] if self._has_header else []), *earlier, line]
            write_atomically(self.path, lambda file: file.writelines(f"{line}\n".encode() for line in lines))
            self.header = header
        self.last, self._size = round_num, self._size_now()

    def _size_now(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _lines(self) -> list[str]:
        text = self.path.read_text("utf-8") if self.path.exists() else ""
        return text.split("\n")[int(self._has_header) : -1]

    def _take_off_torn_line(self) -> None:
        whole = self.path.read_bytes().rfind(b"\n") + 1
        if whole < self.path.stat().st_size:
            os.truncate(self.path, whole)

    def _read_header_and_last(self) -> None:
        try:
            if self._has_header:
                self.header = self.path.read_text("utf-8").partition("\n")[0] or None
            lines = self._lines()
            self.last = self._round_of(lines[-1]) if lines else -1
        except (LookupError, TypeError, ValueError):
            raise ValueError(
                f"{self.path} must hold one line per round to be continued, but holds something else; choose another "
                "name"
            ) from None
