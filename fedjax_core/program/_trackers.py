"""Releases to the tools that track experiments."""

import concurrent.futures
import os
import time
import uuid
from typing import Any

import numpy as np

from fedjax_core.program._history import flatten_metrics, named_values
from fedjax_core.program._releases import ReleaseManager

_BINS = 30  # of a histogram, as TensorBoard's own


def release_to_tensorboard(folder: str | os.PathLike) -> ReleaseManager:
    """Writes events that TensorBoard shows: numbers as scalars, arrays as histograms, texts as texts.

    What an earlier process wrote of the first round that is released, and of later ones, is hidden.
    A histogram is of the finite entries. A round is brought to the disk while the next one is computed, and is there
    when that is released, or after `close`.
    Needs tensorboardX, which is an optional dependency.

    Args:
      folder: of the event files; made if it does not exist.

    Raises:
      ImportError: there is no tensorboardX; the message says how to install it.

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
    events: Any = event_pb2  # protobuf makes the names in them as it runs
    summaries: Any = summary_pb2
    writer: event_file_writer.EventsWriter | None = None
    flushed: concurrent.futures.Future | None = None
    flusher = concurrent.futures.ThreadPoolExecutor(1)

    def open_file(round_num: int) -> event_file_writer.EventsWriter:
        nonlocal writer
        os.makedirs(folder, exist_ok=True)
        # A process that is started within the same second takes the same name but for this part of it.
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
            before.result()  # or raises what it failed with
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
    """Logs every value to a run of Weights & Biases, whose step is the round; what an array becomes is up to it.

    Weights & Biases keeps what it has of a step: rounds that a resumed run repeats are not logged again.

    Args:
      run: what `wandb.init()` returned, or anything with `log(values, step=...)`.

    Raises:
      TypeError: it has no `log`.

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
    """Logs the numbers to MLflow's active run, whose step is the round.

    An array of up to 16 entries is one metric an entry; larger ones, and texts, are left out. MLflow keeps
    both values of a round that a resumed run repeats.

    Args:
      mlflow: the module, or anything with `log_metrics(metrics, step=...)`.

    Raises:
      TypeError: it has no `log_metrics`.

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
        raise TypeError(f"{name} takes something with `{method}(..., step=...)`, got {given!r}; write {call}")
