"""A picture of a history."""

import os

import numpy as np

from fedjax_core.program._files import write_atomically
from fedjax_core.program._history import History, find_metric

_PANELS = (("loss", "Loss"), ("accuracy", "Accuracy"))
_TRAIN_COLOR, _HELD_OUT_COLOR = "#1f6fb4", "#c8501e"


def save_curves(history: History, path: str | os.PathLike, title: str = "") -> None:
    """Draws loss and accuracy over the rounds, on the training clients and on held-out data.

    Needs matplotlib, an optional dependency.

    Args:
      history: what a run measured. The first metric named "loss" and the first named "accuracy" are drawn, or else
        the first whose name ends in "_loss" or "_accuracy"; a panel without a metric is left out.
      path: the PNG file; its folder must exist.
      title: the title above the picture.

    Raises:
      ImportError: matplotlib is not installed; the message says how to install it.
      ValueError: there is neither a loss nor an accuracy to draw.
      OSError: the file cannot be written.

    Example:
      >>> import pathlib, tempfile
      >>> from fedjax_core.program import History, Record
      >>> history = History()
      >>> for i in range(1, 4):
      ...     history.append(Record(i, 0.1 * i, 0.1, 10, {"train/loss": 1 / i}, {"eval/loss": 2 / i}))
      >>> path = pathlib.Path(tempfile.mkdtemp(), "curves.png")
      >>> save_curves(history, path)
      >>> path.read_bytes()[1:4]
      b'PNG'
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "curves.png needs matplotlib, which is not installed; run: pip install 'fedjax-core[plots]'"
        ) from error
    panels = _panels(history)
    if not panels:
        raise ValueError("curves.png draws metrics named 'loss' and 'accuracy', but no round measured one")
    figure = Figure(figsize=(5.2 * len(panels), 3.9), dpi=130, layout="constrained")
    if title:
        figure.suptitle(title)
    for axes, (label, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        _draw(axes, label, curves, history.column("round"))
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _panels(history: History) -> list[tuple[str, dict[str, np.ndarray]]]:
    """What to draw: each panel's title and its curves, by name."""
    metrics = {name: value for record in history.records for name, value in record.metrics.items()}
    held_out = {name: value for record in history.records for name, value in record.held_out.items()}
    panels = []
    for name, label in _PANELS:
        curves = {}
        if found := find_metric(metrics, name):
            curves["training clients"] = history.column(found)
        if found := find_metric(held_out, name):
            curves["held-out data"] = history.column(f"held_out/{found}")
        if curves:
            panels.append((label, curves))
    return panels


def _draw(axes, label: str, curves: dict[str, np.ndarray], rounds: np.ndarray) -> None:
    for name, values in curves.items():
        there = np.isfinite(values)
        held_out = name == "held-out data"
        axes.plot(
            rounds[there],
            values[there],
            label=name,
            color=_HELD_OUT_COLOR if held_out else _TRAIN_COLOR,
            linewidth=2.0 if held_out else 1.4,
            marker="o" if held_out or there.sum() == 1 else None,
            markersize=4,
        )
    axes.set(title=f"{label} over the rounds", xlabel="round", ylabel=label.lower())
    axes.xaxis.get_major_locator().set_params(integer=True)
    if label == "Accuracy":
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    # Not the best place: matplotlib looks through all points for it, and warns where that takes more than a second.
    axes.legend(frameon=False, loc="center right")
