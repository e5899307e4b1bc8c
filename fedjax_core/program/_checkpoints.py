"""The checkpoints of a run: when they are written, which are kept, and how a run resumes from one."""

import concurrent.futures
import json
import math
import os
import re
from typing import Any, NamedTuple

import jax

from fedjax_core import _checks, types
from fedjax_core.program._checkpoint_folder import (
    DamagedCheckpointError,
    has_kinds,
    host_arrays,
    read_about,
    read_checkpoint,
    write_checkpoint,
)
from fedjax_core.program._files import remove_folder, remove_leftovers
from fedjax_core.program._history import History, Record
from fedjax_core.program._locks import check_lock
from fedjax_core.program._paths import checked_path
from fedjax_core.program._warn import warn

_ABOUT = {"round": int, "metrics": dict, "run_identity": dict, "environment": dict}
_ROUND = re.compile("0|[1-9][0-9]*")  # as `str` writes it: `int` reads 007 and Arabic digits, too


class Checkpoint(NamedTuple):
    """All that a run needs to continue after a round.

    Attributes:
      round: the number of the round, at least 0.
      state: the process's state after the round, a pytree of arrays and keys.
      history: what the rounds measured so far.
      run_identity: what decides who takes part in a round and in which batches, such as the key, the cohort size and
        the batching, and fingerprints of what a round computes and of the data; a JSON value.
      environment: what else decides the bits of later rounds: versions, devices, lanes, virtual shards; a JSON value.
    """

    round: int
    state: Any
    history: History
    run_identity: dict[str, Any]
    environment: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in a folder with one folder each, named by the number of the round.

    They are written in the background while the run continues. Whenever the process dies, each checkpoint is complete
    or does not exist. Reading verifies the digest of every array. One process writes; others may read at the same
    time. A checkpoint's arrays are in orbax's format: `orbax.checkpoint.PyTreeCheckpointer` reads them from
    `<round>/arrays` as a dict, by their paths in the state.

    Attributes:
      folder: where the checkpoints are, a `pathlib.Path`.
      every: a checkpoint is due after each round whose number is a multiple of this.

    Example:
      >>> import jax.numpy as jnp, tempfile
      >>> checkpoints = Checkpoints(tempfile.mkdtemp(), keep_last=2)
      >>> for number in range(1, 5):
      ...     state = {"weights": jnp.full(3, float(number)), "key": jax.random.key(0)}
      ...     checkpoints.save(Checkpoint(number, state, History(), run_identity={}, environment={}))
      >>> checkpoints.wait()
      >>> checkpoints.rounds
      (3, 4)
      >>> checkpoint = checkpoints.restore(like=state)
      >>> checkpoint.round, checkpoint.state["weights"]
      (4, Array([4., 4., 4.], dtype=float32))
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        every: int = 10,
        keep_last: int | None = 3,
        keep_every: int | None = None,
        best_metric: str | None = None,
        best_mode: str = "min",
    ):
        """Checks the arguments; nothing is read or written yet.

        Args:
          folder: where the checkpoints are, or will be; the first checkpoint creates it.
          every: the number of rounds from one checkpoint to the next.
          keep_last: how many of the latest checkpoints to keep; None for all.
          keep_every: also keep every round whose number is a multiple of this; None for no others.
          best_metric: also keep the best round by this metric, named as in `History.columns`, for example
            `"held_out/eval/loss"`. Rounds in which it is missing or NaN are not candidates.
          best_mode: "min" or "max": which value of the metric is best. Of equal values the earliest is kept.

        Raises:
          TypeError: `folder` is not a path, a number not an integer, or `best_metric` or `best_mode` not a string.
          ValueError: no folder can have that path, a number is not positive, or `best_mode` is unknown.
        """
        self.folder = checked_path("Checkpoints(folder=...)", folder, "write Checkpoints('runs/first/checkpoints')")
        self.every = _checks.checked_integer("Checkpoints(every=...)", every, 1, "write every=10")
        self._keep_last = _checked_kept("keep_last", keep_last)
        self._keep_every = _checked_kept("keep_every", keep_every)
        if best_metric is not None and not isinstance(best_metric, str):
            raise TypeError(
                f"Checkpoints(best_metric=...) must be the name of a metric, got {best_metric!r}; for example "
                "'held_out/eval/loss'"
            )
        _checks.check_choice("Checkpoints(best_mode=...)", best_mode, ("min", "max"), "write best_mode='min'")
        self._best_metric = best_metric
        self._best_sign = 1 if best_mode == "min" else -1
        self._best_is_checked = False
        self._scores = {}
        self._writing = None
        self._is_new = True

    @property
    def rounds(self) -> tuple[int, ...]:
        """The rounds that have a checkpoint, in ascending order."""
        if not self.folder.is_dir():
            return ()
        return tuple(sorted(int(path.name) for path in self.folder.iterdir() if _ROUND.fullmatch(path.name)))

    @property
    def best_round(self) -> int | None:
        """The best round by `best_metric`; None if no checkpoint has that metric.

        Example: it is kept besides the latest one.
          >>> import jax.numpy as jnp, tempfile
          >>> checkpoints = Checkpoints(tempfile.mkdtemp(), keep_last=1, best_metric="held_out/eval/loss")
          >>> history = History()
          >>> for number, loss in ((1, 0.9), (2, 0.3), (3, 0.4), (4, 0.5)):
          ...     history.append(Record(number, 1.0, 0.5, 10, {}, {"eval/loss": loss}))
          ...     checkpoints.save(Checkpoint(number, {"w": jnp.zeros(2)}, history, run_identity={}, environment={}))
          >>> checkpoints.wait()
          >>> checkpoints.best_round, checkpoints.rounds
          (2, (2, 4))
        """
        scores = {number: score for number in self.rounds if not math.isnan(score := self._score(number))}
        return min(scores, key=lambda number: self._best_sign * scores[number], default=None)

    def save(self, checkpoint: Checkpoint) -> None:
        """Starts to write a checkpoint, after waiting for the previous one if it is still being written.

        The state may be used, donated or changed as soon as this returns. Of several processes, only the first one
        writes.

        Warns:
          UserWarning: once, if an evaluation did not measure `best_metric`.

        Raises:
          TypeError: JSON cannot hold a part of the checkpoint, or the state is not a pytree of arrays and keys.
          OSError: the previous checkpoint could not be written.
        """
        self.wait()
        if jax.process_index() > 0:
            return
        records = checkpoint.history.records
        about = {
            "round": _round(checkpoint.round),
            "metrics": records[-1].row() if records else {},
            "run_identity": checkpoint.run_identity,
            "environment": checkpoint.environment,
        }
        self._check_best_metric(records)
        about = json.loads(json.dumps(about))  # raises here, not in the background, if JSON cannot hold it
        type_ = str(types.type_of(checkpoint.state))
        executor = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        arguments = type_, host_arrays(checkpoint.state), about, checkpoint.history.to_lines()
        self._writing = executor.submit(self._write, *arguments)
        executor.shutdown(wait=False)

    def wait(self) -> None:
        """Waits until the latest checkpoint is written.

        Raises:
          OSError: it could not be written.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def restore(self, like: Any) -> Checkpoint | None:
        """The latest intact checkpoint; None if there is none.

        Args:
          like: a state of the process, for example `process.initialize()`; its values are not read.

        Warns:
          UserWarning: a checkpoint is empty or damaged, and is skipped; one warning for each.

        Raises:
          CheckpointTypeError: the checkpoint is of another model or algorithm.

        Example: the latest checkpoint is damaged.
          >>> import jax.numpy as jnp, tempfile, warnings
          >>> checkpoints = Checkpoints(tempfile.mkdtemp())
          >>> for number in (1, 2):
          ...     state = {"w": jnp.full(2, float(number))}
          ...     checkpoints.save(Checkpoint(number, state, History(), run_identity={}, environment={}))
          >>> checkpoints.wait()
          >>> (checkpoints.folder / "2" / "manifest.json").unlink()
          >>> with warnings.catch_warnings(record=True, action="always") as warned:
          ...     checkpoint = checkpoints.restore(like=state)
          >>> checkpoint.round, checkpoint.state["w"], len(warned)
          (1, Array([1., 1.], dtype=float32), 1)
        """
        self.wait()
        for number in reversed(self.rounds):
            try:
                return self.load(number, like)
            except DamagedCheckpointError as error:
                if (self.folder / str(number)).exists():  # otherwise the run that writes them has just removed it
                    warn(f"the checkpoint of round {number} is damaged and skipped: {error}")
        return None

    def load(self, round_num: int, like: Any) -> Checkpoint:
        """The checkpoint of a round.

        Args:
          round_num: the number of the round.
          like: as in `restore`.

        Raises:
          DamagedCheckpointError: the round has no checkpoint, or it has changed since it was written.
          CheckpointTypeError: the checkpoint is of another model or algorithm.
        """
        path = self.folder / str(_round(round_num))
        state, about, lines = read_checkpoint(path, like)
        if not has_kinds(about, _ABOUT) or about["round"] != round_num:
            raise DamagedCheckpointError(f"{path} is not the checkpoint of round {round_num}")
        try:
            history = History.from_lines(lines)
        except ValueError as error:
            raise DamagedCheckpointError(f"{path}: {error}") from None
        return Checkpoint(round_num, state, history, about["run_identity"], about["environment"])

    def _check_best_metric(self, records: list[Record]) -> None:
        """Warns once if an evaluation did not measure `best_metric`."""
        if self._best_metric is None or self._best_is_checked or not records or not records[-1].held_out:
            return
        self._best_is_checked = True
        row = records[-1].row()
        if self._best_metric not in row:
            warn(f"Checkpoints(best_metric={self._best_metric!r}) is not among what was measured: {', '.join(row)}")

    def _write(self, type_: str, arrays: dict, about: dict, history: list[bytes]) -> None:
        if self._is_new:
            check_lock(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
            self._is_new = False
        write_checkpoint(self.folder / str(about["round"]), type_, arrays, about, history)
        self._scores[about["round"]] = about["metrics"].get(self._best_metric, math.nan)
        for number in self._superfluous(about["round"]):
            remove_folder(self.folder / str(number))

    def _superfluous(self, written: int) -> list[int]:
        """The rounds whose checkpoints to remove.

        Checkpoints of rounds after `written` do not count: the run skipped them because they are damaged.
        """
        rounds = [number for number in self.rounds if number <= written]
        kept = set(rounds if self._keep_last is None else rounds[-self._keep_last :])
        if self._keep_every is not None:
            kept.update(number for number in rounds if number % self._keep_every == 0)
        if self._best_metric is not None and (best := self.best_round) is not None:
            kept.add(best)
        return [number for number in rounds if number not in kept]

    def _score(self, number: int) -> float:
        if number not in self._scores:
            try:
                about = read_about(self.folder / str(number))
            except DamagedCheckpointError:
                about = {}
            score = about["metrics"].get(self._best_metric) if has_kinds(about, _ABOUT) else None
            self._scores[number] = score if isinstance(score, int | float) else math.nan
        return self._scores[number]


def _checked_kept(name: str, value: Any) -> int | None:
    if value is None:
        return None
    return _checks.checked_integer(f"Checkpoints({name}=...)", value, 1, f"write {name}=10, or {name}=None")


def _round(number: int) -> int:
    return _checks.checked_integer("the number of a round", number, 0, "the first round is 1")
