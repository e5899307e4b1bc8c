"""Watches the checkpoints that another process writes."""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from fedjax_core.program._checkpoints import Checkpoint, Checkpoints

_WARN_SECONDS = 600.0
_LOGGER = logging.getLogger("fedjax_core")


class Time(NamedTuple):
    """The source of time, which tests replace.

    Attributes:
      clock: returns the time in seconds.
      sleep: waits for a number of seconds.
    """

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def watch(
    checkpoints: Checkpoints,
    like: Any,
    evaluate: Callable[[Checkpoint], Any],
    *,
    time: Time,
    throttle_secs: float,
    only_once: bool,
    is_over: Callable[[Checkpoint], bool],
    until: Callable[[Any], bool] | None,
) -> Any:
    """Evaluates the latest checkpoint, again and again.

    Args:
      checkpoints: the checkpoints to watch.
      like: a state of the process that is being trained.
      evaluate: returns the metrics of a checkpoint.
      time: the clock and the sleep.
      throttle_secs: seconds from one look for a new checkpoint to the next.
      only_once: whether to evaluate each checkpoint only once.
      is_over: whether a checkpoint is the last one, which ends the watch.
      until: a function of the last result, which is None at first and `{}` if there was no new checkpoint; a true
        value ends the watch. None to watch until the last checkpoint.

    Returns:
      The metrics of the last evaluation; `{}` if there was none.
    """
    warned = -float("inf")
    evaluated, result, metrics = -1, None, {}
    while until is None or not until(result):
        began = time.clock()
        checkpoint = _newer(checkpoints, like, evaluated if only_once else -1)
        if checkpoint is None:
            result = {}
            if began - warned >= _WARN_SECONDS:
                warned = began
                _LOGGER.warning("%s: no checkpoint after round %d to evaluate", checkpoints.folder, max(evaluated, 0))
        else:
            evaluated = checkpoint.round
            result = metrics = evaluate(checkpoint)
            if is_over(checkpoint):
                break
        left = throttle_secs - (time.clock() - began)
        if left > 0:
            time.sleep(left)
    return metrics


def wait_for_round(checkpoints: Checkpoints, number: int, *, time: Time, poll_secs: float) -> None:
    """Waits until there is a checkpoint of the given round or of a later one."""
    while max(checkpoints.rounds, default=0) < number:
        time.sleep(poll_secs)


def _newer(checkpoints: Checkpoints, like: Any, evaluated: int) -> Checkpoint | None:
    """The latest checkpoint, if it is of a round after `evaluated`; otherwise None."""
    if max(checkpoints.rounds, default=-1) <= evaluated:
        return None
    checkpoint = checkpoints.restore(like)
    return checkpoint if checkpoint is not None and checkpoint.round > evaluated else None
