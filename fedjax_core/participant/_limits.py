"""How much effort a real participant spends on a round, and when that is enough."""

import math
import operator
from collections.abc import Callable
from typing import Any

import jax


class EffortMeter:
    """Counts epochs, steps and seconds, and tells when the first of the limits is reached.

    `is_spent` is to be asked after every step, `has_epochs_left` between epochs.

    Args:
      clock: seconds, such as `time.monotonic`; it starts now.
      n_epoch: most epochs, an integer of at least 1, or None.
      n_steps: most steps, likewise.
      timeout: seconds after which no further step begins, more than 0 and finite, or None.

    Attributes:
      n_epoch, n_steps: epochs begun and steps done so far.
      n_examples: examples in these steps.
      t_spent: seconds from the start to when `wait_for` last returned.

    Raises:
      TypeError: a limit is no number, or a count no integer.
      ValueError: a limit is not positive, or the timeout not finite.

    Example:
      >>> meter = EffortMeter(iter([0.0, 0.5, 1.5]).__next__, timeout=1.0)
      >>> for _ in range(2):
      ...     meter.count_step(num_examples=20, result=None)
      ...     print(meter.is_spent, meter.t_spent)
      False 0.5
      True 1.5
    """

    def __init__(
        self,
        clock: Callable[[], float],
        n_epoch: int | None = None,
        n_steps: int | None = None,
        timeout: float | None = None,
    ):
        self._max_epochs = _checked_count("n_epoch", n_epoch)
        self._max_steps = _checked_count("n_steps", n_steps)
        self._timeout = _checked_seconds("timeout", timeout)
        self.n_epoch = self.n_steps = self.n_examples = 0
        self.t_spent = 0.0
        self._clock, self._start = clock, clock()

    def count_epoch(self) -> None:
        """An epoch begins."""
        self.n_epoch += 1

    def count_step(self, num_examples: int, result: Any) -> None:
        """A step is done; where seconds are limited, waits for its result, a pytree that JAX may still compute."""
        self.n_steps += 1
        self.n_examples += num_examples
        if self._timeout is not None:
            self.wait_for(result)

    def wait_for(self, result: Any) -> None:
        """Takes the time when the result is there."""
        jax.block_until_ready(result)
        self.t_spent = self._clock() - self._start

    @property
    def is_spent(self) -> bool:
        """Whether the steps or the seconds are at their limit."""
        return _reached(self.n_steps, self._max_steps) or _reached(self.t_spent, self._timeout)

    @property
    def has_epochs_left(self) -> bool:
        """Whether another epoch may begin."""
        return not _reached(self.n_epoch, self._max_epochs)


def check_some_limit(**limits: float | None) -> None:
    """Checks that training ends.

    Raises:
      ValueError: all limits are None.
    """
    if all(limit is None for limit in limits.values()):
        raise ValueError(f"training needs a limit, got none of {', '.join(limits)}; for example n_epoch=1")


def _reached(value: float, limit: float | None) -> bool:
    return limit is not None and value >= limit


def _checked_count(name: str, limit) -> int | None:
    if limit is None:
        return None
    try:
        if isinstance(limit, bool):
            raise TypeError
        limit = operator.index(limit)
    except TypeError:
        raise TypeError(f"the limit {name} must be an integer or None, got {limit!r}; use {name}=10") from None
    if limit < 1:
        raise ValueError(f"the limit {name} must be at least 1, got {limit}; for no limit use {name}=None")
    return limit


def _checked_seconds(name: str, limit) -> float | None:
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise TypeError(f"the limit {name} must be a number of seconds or None, got {limit!r}; use {name}=60")
    if not 0 < limit < math.inf:
        raise ValueError(f"the limit {name} must be positive seconds, got {limit}; for no limit use {name}=None")
    return limit
