"""A line of JSON a round."""

import json
import math
import os
from typing import Any

import numpy as np

from fedjax_core.program._history import named_values
from fedjax_core.program._releases import ReleaseManager
from fedjax_core.program._round_lines import RoundLines, checked_round


def release_to_json_lines(path: str | os.PathLike) -> ReleaseManager:
    """Appends a line of JSON a round: an object with `round` and each value by its path.

    Arrays are lists, of any size. Numbers that JSON has not are the texts `"NaN"`, `"Infinity"` and
    `"-Infinity"`, as in the JSON of protocol buffers; `float` reads them.

    Args:
      path: the file; its folder must exist. A file that is there already is continued.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: the file is there and holds something else.

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
