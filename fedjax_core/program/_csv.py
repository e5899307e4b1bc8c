"""A line a round in a table."""

import csv
import io
import os
from collections.abc import Sequence
from typing import Any

from fedjax_core.program._atomic import write_atomically
from fedjax_core.program._history import History, flatten_metrics
from fedjax_core.program._releases import ReleaseManager
from fedjax_core.program._round_lines import RoundLines, checked_round


def save_csv(history: History, path: str | os.PathLike) -> None:
    """Writes one line a round and one column a number; the file is there whole or not at all.

    A number that a round does not have is an empty cell; numbers read back exactly.

    Args:
      history: what a run measured.
      path: the file; its folder must exist.

    Raises:
      OSError: it cannot be written.

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
    """Appends a line a round to a table, with one column a number.

    A round costs the same however many came before; only a number that no round before had, a new
    column, makes the file be written anew. A number that a round does not have is an empty cell.
    An array of up to 16 entries is one column an entry; larger ones are left out.

    Args:
      path: the file; its folder must exist. A table that is there already is continued.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: the file is there and no such table.

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
    """The file, whose first line has the columns."""

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
