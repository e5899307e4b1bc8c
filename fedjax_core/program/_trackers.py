"""Releases to tools that track experiments."""

import concurrent.futures
import os
import time
import uuid
from typing import Any

import numpy as np

from fedjax_core.program._history import flatten_metrics, named_values
from fedjax_core.program._paths import checked_path
from fedjax_core.program._releases import ReleaseManager

_BINS = 30  # the bins of a histogram, as many as TensorBoard's own have


def release_to_tensorboard(folder: str | os.PathLike) -> ReleaseManager:
    """Writes events for TensorBoard: numbers as scalars, arrays as histograms of their finite entries, texts as texts.

    TensorBoard hides what an earlier process released for the first round released here and for later ones. A round is
    written to disk in the background, and is there when the next round is released, or after `close`.

    Needs tensorboardX, an optional dependency.

    Args:
      folder: the folder of the event files; created if it does not exist.

    Raises:
      ImportError: tensorboardX is not installed; the message says how to install it.

    Example:
      >>> import contextlib, pathlib, tempfile
      >>> folder = pathlib.Path(tempfile.mkdtemp(), "events")
      >>> with contextlib.closing(release_to_tensorboard(folder)) as manager:
      ...     manager.release({"train": {"loss": 2.25}}, 1)
      >>> [file.name.split(".")[0] for file in folder.iterdir()]
      ['events']
    """
    try:
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2, summary_pb2
    except ImportError as error:
        raise ImportError(
            "release_to_tensorboard needs tensorboardX, which is not installed; run: "
            "pip install 'fedjax-core[tensorboard]'"
        ) from error
    folder = checked_path("release_to_tensorboard(folder=...)", folder, "write 'runs/first/tensorboard'")
    events: Any = event_pb2  # protobuf creates the names in these modules at run time
    summaries: Any = summary_pb2
    writer: event_file_writer.EventsWriter | None = None
    flushed: concurrent.futures.Future | None = None
    flusher = concurrent.futures.ThreadPoolExecutor(1)

    def open_file(round_num: int) -> event_file_writer.EventsWriter:
        nonlocal writer
        os.makedirs(folder, exist_ok=True)
        # Only the suffix distinguishes the file from that of another process that starts within the same second.
        writer = made = event_file_writer.EventsWriter(os.path.join(folder, "events"), f".{uuid.uuid4().hex}")
        start = events.SessionLog(status=events.SessionLog.START)
        made.write_event(events.Event(wall_time=time.time(), step=round_num, session_log=start))
        return made

    def values_of(name: str, leaf: Any) -> list:
        if isinstance(leaf, str):
            return summary.text(name, leaf).value
        if not isinstance(leaf, np.ndarray):
            return [summaries.Summary.Value(tag=name, simple_value=leaf)]
        finite = leaf[np.isfinite(leaf)]
        return summary.histogram(name, finite, _BINS).value if finite.size else []

    def release(value: Any, round_num: int) -> None:
        nonlocal flushed
        file = open_file(round_num) if writer is None else writer
        if flushed is not None:
            before, flushed = flushed, None
            before.result()  # raises the error if the write failed
        values = [v for name, leaf in named_values(value).items() for v in values_of(name, leaf)]
        of_round = summaries.Summary(value=values)
        file.write_event(events.Event(wall_time=time.time(), step=round_num, summary=of_round))
        flushed = flusher.submit(file.flush)

    def close() -> None:
        flusher.shutdown()
        if writer is not None:
            writer.close()

    return ReleaseManager(release, close)


def release_to_wandb(run: Any) -> ReleaseManager:
    """Logs every value to a run of Weights & Biases, with the round as the step; arrays are passed on unchanged.

    Weights & Biases keeps the first values of a step, so the values of rounds that a resumed run repeats are dropped.

    Args:
      run: what `wandb.init()` returned, or any object with `log(values, step=...)`.

    Raises:
      TypeError: `run` has no `log`.

    Example:
      >>> class Run:
      ...     def log(self, values, step):
      ...         print(step, values)
      >>> release_to_wandb(Run()).release({"train": {"loss": 2.25}}, 1)
      1 {'train/loss': 2.25}
    """
    _check_has("release_to_wandb", "log", run, "fc.program.release_to_wandb(wandb.init(project='...'))")
    return ReleaseManager(lambda value, round_num: run.log(named_values(value), step=round_num))


def release_to_mlflow(mlflow: Any) -> ReleaseManager:
    """Logs the numbers to MLflow's active run, with the round as the step.

    An array of up to 16 entries becomes one metric per entry; larger arrays and texts are left out. MLflow keeps both
    values of a round that a resumed run repeats.

    Args:
      mlflow: the module, or any object with `log_metrics(metrics, step=...)`.

    Raises:
      TypeError: `mlflow` has no `log_metrics`.

    Example:
      >>> class Run:
      ...     def log_metrics(self, metrics, step):
      ...         print(step, metrics)
      >>> release_to_mlflow(Run()).release({"train": {"loss": 2.25, "ready": True}}, 1)
      1 {'train/loss': 2.25, 'train/ready': 1.0}
    """
    _check_has("release_to_mlflow", "log_metrics", mlflow, "import mlflow; fc.program.release_to_mlflow(mlflow)")

    def release(value: Any, round_num: int) -> None:
        flat = flatten_metrics(value)
        mlflow.log_metrics({n: float(v) for n, v in flat.items() if isinstance(v, int | float)}, step=round_num)

    return ReleaseManager(release)


def _check_has(name: str, method: str, given: Any, call: str) -> None:
    if not callable(getattr(given, method, None)):
        raise TypeError(f"{name} needs an object with `{method}(..., step=...)`, got {given!r}; write {call}")
