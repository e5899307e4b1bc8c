"""A history as a table."""

import csv
import io
import os

from fedjax_core.program._atomic import write_atomically
from fedjax_core.program._history import History


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
      >>> history.append(Record(1, 0.5, 0.5, 10, {"train.loss": 2.25}, {}))
      >>> path = pathlib.Path(tempfile.mkdtemp(), "metrics.csv")
      >>> save_csv(history, path)
      >>> print(path.read_text().strip())
      round,seconds,round_seconds,num_clients,train.loss
      1,0.5,0.5,10,2.25
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, history.columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(record.row() for record in history.records)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))
