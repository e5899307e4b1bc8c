"""What a run returns and writes at its end."""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_core._own_errors import noted
from fedjax_core.program._awaiting import awaited
from fedjax_core.program._exports import Export
from fedjax_core.program._files import remove_leftovers, write_folder_atomically
from fedjax_core.program._history import History
from fedjax_core.program._run_folder import RunFolder
from fedjax_core.program._weights import load_weights


class TrainResult(NamedTuple):
    """The result of training.

    Attributes:
      state: the process's state after the last round.
      history: a `History` with one record for each round.
      held_out: what the last evaluation measured; None without an evaluation.
      exports: the folders that the exports wrote, in order.
    """

    state: Any
    history: History
    held_out: Any = None
    exports: tuple[pathlib.Path, ...] = ()


def write_export(folder: pathlib.Path, export: Export, weights: Any, metrics: Any) -> None:
    """Writes an export atomically: its folder is complete, or it does not exist.

    Args:
      folder: the export's own folder, within the folder of all exports.
      export: the export that writes it.
      weights: the model's weights.
      metrics: what the last evaluation measured.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent)
    with noted(f"in the export {export.name!r}"):
        write_folder_atomically(folder, lambda new: awaited(export.write(new, weights, metrics)))


def finish_if_unfinished(folder: RunFolder, weights: Any, history: History) -> None:
    """Writes the final files of a run if its process was killed after the last checkpoint, before it wrote them."""
    if not _holds(folder.path / "weights.npz", weights):
        folder.finish(weights, history)


def _holds(path: pathlib.Path, weights: Any) -> bool:
    """Whether the file exists and holds these weights."""
    try:
        saved = load_weights(path, like=weights)
    except (OSError, ValueError):
        return False
    same = jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), saved, weights)
    return all(jax.tree.leaves(same))
