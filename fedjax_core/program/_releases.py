"""Release managers, which take the metrics of each round out of the program."""

import contextlib
import datetime
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fedjax_core import _checks
from fedjax_core.program._awaiting import awaited
from fedjax_core.program._history import named_values, on_host


class ReleaseManager(NamedTuple):
    """Takes the values of each round out of the program, into a file, a service or a log.

    Releasing a round replaces what was released for that round and for later ones, as far as the destination allows,
    so that a run that is resumed from an earlier round leaves no round twice.

    Attributes:
      release: `(value, round_num)`. `value` is a pytree of numbers and arrays, for example the metrics
        of a process. Nested names are joined by `/`, as in `"train/loss"`. If it is declared with `async def`, a run
        awaits it before the next round.
      close: `()`; closes what `release` has opened. `contextlib.closing(manager)` calls it.

    Example: a custom manager.
      >>> manager = ReleaseManager(lambda value, round_num: print(round_num, value["loss"]))
      >>> manager.release({"loss": 0.5}, 1)
      1 0.5
    """

    release: Callable[[Any, int], None]
    close: Callable[[], None] = lambda: None


def release_to_memory(values: dict[int, Any]) -> ReleaseManager:
    """Stores each value, with NumPy arrays, in a dict by the number of the round.

    Args:
      values: the dict to store them in.

    Example:
      >>> values = {}
      >>> release_to_memory(values).release({"loss": 0.5}, 1)
      >>> values
      {1: {'loss': 0.5}}
    """

    def release(value: Any, round_num: int) -> None:
        round_num, value = checked_round(round_num), on_host(value)  # may fail, so nothing is deleted before
        for later in [number for number in values if number >= round_num]:
            del values[later]
        values[round_num] = value

    return ReleaseManager(release)


def release_to_log(logger: logging.Logger | None = None, level: int = logging.INFO) -> ReleaseManager:
    """Logs one line per round, with every value by name; for an array, its dtype and shape.

    Args:
      logger: the logger; None for the one named `fedjax_core`.
      level: the level to log at.

    Example:
      >>> import sys
      >>> logger = logging.Logger("run")
      >>> logger.addHandler(logging.StreamHandler(sys.stdout))
      >>> release_to_log(logger).release({"train": {"loss": 0.123456789}}, 3)
      round 3: train/loss=0.123457
    """
    logger = logging.getLogger("fedjax_core") if logger is None else logger

    def release(value: Any, round_num: int) -> None:
        if logger.isEnabledFor(level):
            described = ", ".join(f"{name}={_described(leaf)}" for name, leaf in named_values(value).items())
            logger.log(level, "round %d: %s", round_num, described)

    return ReleaseManager(release)


def group_releases(*managers: ReleaseManager) -> ReleaseManager:
    """Releases to several managers, one after the other.

    An exception in one of them ends the run, which can be resumed; list managers that may fail, such as a service,
    after the files.

    Raises:
      TypeError: an argument is not a `ReleaseManager`.

    Example:
      >>> values, others = {}, {}
      >>> group_releases(release_to_memory(values), release_to_memory(others)).release(0.5, 1)
      >>> values == others == {1: 0.5}
      True
    """
    for manager in managers:
        _check_manager("group_releases", manager)

    def release(value: Any, round_num: int) -> None:
        value = on_host(value)
        for manager in managers:
            awaited(manager.release(value, round_num))

    def close() -> None:
        with contextlib.ExitStack() as stack:  # closes the others even if one fails
            for manager in reversed(managers):
                stack.callback(lambda manager=manager: awaited(manager.close()))

    return ReleaseManager(release, close)


def filter_releases(manager: ReleaseManager, keep: Callable[[str], bool]) -> ReleaseManager:
    """Releases only the values whose names `keep` accepts, and no round without any.

    Args:
      manager: where to release them.
      keep: `(name) -> bool`; a name is, for example, `"train/loss"`.

    Raises:
      TypeError: `manager` is not a `ReleaseManager`, or `keep` is not a function.

    Example:
      >>> values = {}
      >>> losses = filter_releases(release_to_memory(values), lambda name: name.endswith("/loss"))
      >>> losses.release({"train": {"loss": 0.5, "accuracy": 0.9}}, 1)
      >>> values
      {1: {'train/loss': 0.5}}
    """
    _check_manager("filter_releases", manager)
    _checks.check_function("filter_releases(keep=...)", keep, "of a name", f"write lambda name: name == {keep!r}")
    _checks.check_not_async("filter_releases(keep=...)", keep)

    def release(value: Any, round_num: int) -> None:
        kept = {name: leaf for name, leaf in named_values(value).items() if keep(name)}
        if kept:
            awaited(manager.release(kept, round_num))

    return manager._replace(release=release)


def periodic_releases(
    manager: ReleaseManager, every: int | datetime.timedelta, clock: Callable[[], float] = time.monotonic
) -> ReleaseManager:
    """Releases some of the rounds.

    Args:
      manager: where to release them.
      every: an integer releases the rounds whose numbers are multiples of it, also in a resumed run; a `timedelta`
        releases the first round, and then a round whenever that much time has passed since the last release.
      clock: returns the time in seconds.

    Raises:
      TypeError: `manager` is not a `ReleaseManager`, or `every` is neither an integer nor a `timedelta`.
      ValueError: `every` is not positive.

    Example:
      >>> values = {}
      >>> manager = periodic_releases(release_to_memory(values), every=10)
      >>> for round_num in range(1, 31):
      ...     manager.release(round_num / 10, round_num)
      >>> values
      {10: 1.0, 20: 2.0, 30: 3.0}
    """
    _check_manager("periodic_releases", manager)
    due = _after(every, clock) if isinstance(every, datetime.timedelta) else _divided_by(every)

    def release(value: Any, round_num: int) -> None:
        if due(round_num):
            awaited(manager.release(value, round_num))

    return manager._replace(release=release)


def _after(every: datetime.timedelta, clock: Callable[[], float]) -> Callable[[int], bool]:
    if every <= datetime.timedelta():
        repair = "write every=datetime.timedelta(minutes=1)"
        raise ValueError(_checks.message("periodic_releases(every=...)", "positive", every, repair))
    seconds = every.total_seconds()
    next_time = -float("inf")

    def due(round_num: int) -> bool:
        nonlocal next_time
        now = clock()
        if now < next_time:
            return False
        next_time = now + seconds
        return True

    return due


def _divided_by(every: int) -> Callable[[int], bool]:
    repair = "write every=1 for each round, or give a datetime.timedelta"
    number = _checks.checked_integer("periodic_releases(every=...)", every, 1, repair)
    return lambda round_num: round_num % number == 0


def _check_manager(name: str, manager: Any) -> None:
    if not isinstance(manager, ReleaseManager):
        raise TypeError(
            f"{name}: each manager must be a ReleaseManager, got {manager!r}; for example "
            "fc.program.release_to_csv('metrics.csv')"
        )


def _described(leaf: Any) -> str:
    if isinstance(leaf, np.ndarray):
        return f"{leaf.dtype}{list(leaf.shape)}"
    return f"{leaf:.6g}" if isinstance(leaf, float) else str(leaf)


def checked_round(round_num: int) -> int:
    """The number of a round as a Python integer.

    Raises:
      TypeError: the number is not an integer.
      ValueError: the number is negative.
    """
    return _checks.checked_integer("release(round_num=...)", round_num, 0, "write round_num=1")
