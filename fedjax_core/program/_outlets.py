"""Outlets: the consumers of a run's rounds, such as files, checkpoints and hooks."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_core._own_errors import noted
from fedjax_core.program._awaiting import awaited
from fedjax_core.program._checkpoints import Checkpoint, Checkpoints
from fedjax_core.program._history import History, Record, named_values
from fedjax_core.program._progress import ProgressBar
from fedjax_core.program._releases import ReleaseManager
from fedjax_core.program._run_folder import RunFolder
from fedjax_core.program._warn import warn

_LOGGER = logging.getLogger("fedjax_core")
_ENDS = (2**31 - 1, 2**32 - 1, -(2**31))
_LEFT_OUT_NUMBERS = "client_work/train/non_finite_clients/"  # released by name instead


class Round(NamedTuple):
    """What the `on_round` hooks of a run receive after each round.

    Attributes:
      number: the number of the round, from 1.
      state: the process's state after the round.
      metrics: what the process measured, with NumPy arrays; None if the round was skipped.
      held_out: what the evaluation measured after the round, with NumPy arrays; None if there was no evaluation.
      record: the round and its metrics as plain numbers.
      is_last: whether the run ends with this round.
    """

    number: int
    state: Any
    metrics: Any
    held_out: Any
    record: Record
    is_last: bool


def _nothing() -> None:
    pass


class Outlet(NamedTuple):
    """Receives the rounds of a run, each one after the outlets earlier in the list have received it.

    Attributes:
      take: `(round)`; called after each round. An exception ends the run.
      interrupt: `()`; called before `close` if Ctrl-C ends the run.
      close: `()`; called at the end of the run, however it ends.
    """

    take: Callable[[Round], Any]
    interrupt: Callable[[], Any] = _nothing
    close: Callable[[], Any] = _nothing


def to_progress_bar(last_round: int | None, completed: int) -> Outlet:
    """Shows a progress bar, from this call on."""
    bar = ProgressBar(last_round, completed)
    bar.__enter__()
    return Outlet(lambda round_: bar.update(round_.record), close=lambda: bar.__exit__(None, None, None))


def to_log() -> Outlet:
    """Logs the clients that a round left out, by name, and warns once of each thing that makes its numbers wrong.

    It warns if a round left out all clients that have examples, and if a count is too large for its integers.
    """
    watched = [_of_nobody, _of_saturated]

    def take(round_: Round) -> None:
        record = round_.record
        left_out = record.num_left_out
        if left_out:
            who = record.names_left_out if record.left_out else record.reasons_left_out
            _LOGGER.info("round %d left out %d of %d clients: %s", record.round, left_out, record.num_clients, who)
        for message_of in tuple(watched):
            if message := message_of(round_):
                watched.remove(message_of)
                warn(message)

    return Outlet(take)


def _of_nobody(round_: Round) -> str:
    """The warning of a round that left out all clients that have examples, otherwise an empty string."""
    record = round_.record
    if not record.has_left_out_all:
        return ""
    which = "" if record.num_left_out == record.num_clients else " that have examples"
    return (
        f"round {record.round} left out all of its {record.num_left_out} clients{which}, since their results were not "
        f"finite: {record.reasons_left_out}; lower the learning rates, or find the first step that is not finite: "
        "fc.testing.debug_client(process, state, client)"
    )


def _of_saturated(round_: Round) -> str:
    """The warning of a round with counts too large for their integers, otherwise an empty string."""
    values = named_values({"": round_.metrics, "held_out": round_.held_out})
    names = [name.removeprefix("/") for name, value in values.items() if _is_saturated(value)]
    if not names:
        return ""
    return (
        f"round {round_.number} measured counts too large for their integers, which show the largest one instead: "
        f"{', '.join(names)}; metrics in floats, such as an accuracy, are computed from the exact counts. To see such "
        "a count, finalize it to a float: metric._replace(finalize=lambda n: n.astype('float32'))"
    )


def _is_saturated(value: Any) -> bool:
    """Whether integers hold an end of 32 bits, which `metrics.finalize_sum` puts in place of what is beyond it."""
    if isinstance(value, int):
        return value in _ENDS
    return isinstance(value, np.ndarray) and value.dtype.kind in "iu" and bool(np.isin(value, _ENDS).any())


def to_folder(folder: RunFolder, state: Any, history: History, get_weights: Callable[[Any], Any]) -> Outlet:
    """Extends `metrics.csv` after each round, and writes the files of `RunFolder.finish` at the end of the run.

    Args:
      folder: the folder to write to.
      state: the state with which the run begins.
      history: the history of the run, which grows.
      get_weights: a function from the state to the model's weights.
    """
    latest = state

    def take(round_: Round) -> None:
        nonlocal latest
        latest = round_.state
        folder.write_metrics(history)

    def close() -> None:
        if len(history):
            folder.finish(get_weights(latest), history)

    return Outlet(take, close=close)


def to_releases(releases: Sequence[ReleaseManager]) -> Outlet:
    """Releases the values of each round, by name, to each manager in turn."""

    def take(round_: Round) -> None:
        values = _released_values(round_)
        for manager in releases:
            with noted(f"in a release manager, at round {round_.number}"):
                awaited(manager.release(values, round_.number))

    return Outlet(take)


def to_checkpoints(
    checkpoints: Checkpoints, history: History, run_identity: dict[str, Any], environment: Callable[[], dict[str, Any]]
) -> Outlet:
    """Writes a checkpoint when one is due, after the last round, and after the latest round if Ctrl-C ends the run.

    It follows the outlets that release: a round may get a checkpoint only once it is released, because a run that
    resumes from the checkpoint does not release the round again.

    Args:
      checkpoints: the checkpoints to write.
      history: the history of the run, which grows.
      run_identity: see `Checkpoint`.
      environment: returns the `environment` of a `Checkpoint`, which may be known only after the first round.
    """
    latest: Round | None = None
    saved: int | None = None

    def save(round_: Round) -> None:
        nonlocal saved
        checkpoints.save(Checkpoint(round_.number, round_.state, history, run_identity, environment()))
        saved = round_.number

    def take(round_: Round) -> None:
        nonlocal latest
        latest = round_
        if round_.number % checkpoints.every == 0 or round_.is_last:
            save(round_)

    def interrupt() -> None:
        # A round that is in the history but was not released must run again, so it gets no checkpoint.
        if latest is not None and saved != latest.number == history.records[-1].round:
            save(latest)

    return Outlet(take, interrupt, checkpoints.wait)


def to_hooks(hooks: Sequence[Callable[[Round], Any]]) -> Outlet:
    """Calls each hook after each round."""

    def take(round_: Round) -> None:
        for hook in hooks:
            with noted(f"in a hook, after round {round_.number}"):
                awaited(hook(round_))

    return Outlet(take)


def _released_values(round_: Round) -> dict[str, Any]:
    """The values to release after a round, by name."""
    record = round_.record
    names = {"left_out_clients": record.names_left_out} if record.left_out else {}
    measured = {n: v for n, v in named_values(round_.metrics).items() if not n.startswith(_LEFT_OUT_NUMBERS)}
    # The loop adds these numbers to the process's metrics, and only the record has them.
    added = {n: v for n, v in record.metrics.items() if n.startswith(("participation/", "privacy/"))}
    return {
        "seconds": record.seconds,
        "round_seconds": record.round_seconds,
        "num_clients": record.num_clients,
        **added,
        **measured,
        **names,
        **{f"held_out/{name}": value for name, value in named_values(round_.held_out).items()},
    }
