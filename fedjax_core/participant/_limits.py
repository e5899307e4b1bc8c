"""The effort that a real participant spends on a round, and its limits."""

from collections.abc import Callable
from typing import Any

import jax

from fedjax_core import _checks


class EffortMeter:
    """Counts epochs, steps and seconds, and says when the first of the limits is reached.

    Ask `is_spent` after every step and `has_epochs_left` between epochs.

    Args:
      clock: returns the time in seconds, such as `time.monotonic`; the measurement starts now.
      n_epoch: the largest number of epochs, at least 1; None for no limit.
      n_steps: the largest number of steps, at least 1; None for no limit.
      timeout: seconds after which no further step begins, positive and finite; None for no limit.

    Attributes:
      n_epoch, n_steps: the numbers of epochs begun and of steps done so far.
      n_examples: the number of examples in these steps.
      t_spent: seconds from the start until `wait_for` last returned.

    Raises:
      TypeError: `n_epoch` or `n_steps` is not an integer, or `timeout` is not a number.
      ValueError: a limit is not positive, or the timeout is not finite.

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
        """Counts an epoch that begins."""
        self.n_epoch += 1

    def count_step(self, num_examples: int, result: Any) -> None:
        """Counts a step that is done; with a timeout, first waits until JAX has computed its result, a pytree."""
        self.n_steps += 1
        self.n_examples += num_examples
        if self._timeout is not None:
            self.wait_for(result)

    def wait_for(self, result: Any) -> None:
        """Waits until JAX has computed a result, a pytree, and measures the time."""
        jax.block_until_ready(result)
        self.t_spent = self._clock() - self._start

    @property
    def is_spent(self) -> bool:
        """Whether the steps or the seconds have reached their limit."""
        return _reached(self.n_steps, self._max_steps) or _reached(self.t_spent, self._timeout)

    @property
    def has_epochs_left(self) -> bool:
        """Whether another epoch may begin."""
        return not _reached(self.n_epoch, self._max_epochs)


def check_some_limit(**limits: float | None) -> None:
    """Raises ValueError if all limits are None, since training would never end."""
    if all(limit is None for limit in limits.values()):
        raise ValueError(f"training needs a limit, got none of {', '.join(limits)}; for example n_epoch=1")


def _reached(value: float, limit: float | None) -> bool:
    return limit is not None and value >= limit


def _checked_count(name: str, limit) -> int | None:
    if limit is None:
        return None
    return _checks.checked_integer(f"the limit {name}", limit, 1, f"for no limit write {name}=None")


def _checked_seconds(name: str, limit) -> float | None:
    if limit is None:
        return None
    return _checks.checked_number(f"the limit {name}", limit, _checks.POSITIVE, f"for no limit write {name}=None")
