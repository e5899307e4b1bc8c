"""How long a client trains."""

import dataclasses

import numpy as np

from fedjax_core import _checks
from fedjax_core.data import _batching

_MAX_STEPS = 2**31 - 1
_ROUNDING = 1e-9  # 0.7 seconds at 10 steps a second are 7 steps, though 0.7 * 10 > 7 in floating point


@dataclasses.dataclass(frozen=True)
class Effort:
    """Limits on local training, which ends as soon as one of them is reached.

    Steps and seconds are checked after every step: at least one step runs, and the step during which the seconds
    run out is the last. For simulated clients, `num_steps` turns the limits into a number of steps for each client,
    given a simulated speed; no clock is read.

    Attributes:
      max_epochs: number of passes over a client's examples, at least 1. It must equal the `num_epochs` of the batching.
      max_steps: number of batches, at least 1.
      max_seconds: duration of training in seconds, positive.

    Raises:
      TypeError: a limit on epochs or steps is not an integer, or `max_seconds` is not a number.
      ValueError: a limit is not positive and finite, or there is no limit at all.

    Example:
      >>> Effort(max_steps=100, max_seconds=60.0)
      Effort(max_epochs=None, max_steps=100, max_seconds=60.0)
      >>> Effort()
      Traceback (most recent call last):
      ValueError: Effort() sets no limit, so training would never end; for example Effort(max_epochs=1)
    """

    max_epochs: int | None = None
    max_steps: int | None = None
    max_seconds: float | None = None

    def __post_init__(self):
        if self.max_epochs is None and self.max_steps is None and self.max_seconds is None:
            raise ValueError("Effort() sets no limit, so training would never end; for example Effort(max_epochs=1)")
        for name, example in (("max_epochs", 1), ("max_steps", 100), ("max_seconds", 60.0)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, self._checked(name, example))

    def _checked(self, name: str, example: int | float) -> int | float:
        value, call = getattr(self, name), f"Effort({name}=...)"
        repair = f"write {name}={example}, or leave it out if there is another limit"
        if isinstance(example, int):
            return _checks.checked_integer(call, value, 1, repair)
        return float(_checks.checked_number(call, value, _checks.POSITIVE, repair))

    def num_steps(
        self,
        num_examples: np.ndarray,
        batching: _batching.Batching,
        steps_per_second: float | np.ndarray | None = None,
    ) -> np.ndarray:
        """The number of steps that clients with these numbers of examples take under all limits.

        Args:
          num_examples: number of examples of each client, `[C]`.
          batching: how the examples become batches. Its `num_epochs` is one of the limits; with None only steps and
            seconds count, and small clients make more passes over their examples than large ones.
          steps_per_second: speed of the clients, positive, a number or `[C]`; required with `max_seconds`.

        Returns:
          int64 `[C]`, for `data.cohort(..., max_steps=...)`; 0 for a client without a batch.

        Raises:
          ValueError: `max_epochs` is not the batching's `num_epochs`, or a speed is missing or is not positive and
            finite.

        Example:
          >>> batching = _batching.Batching(batch_size=10, num_epochs=3)
          >>> Effort(max_steps=8, max_seconds=2.0).num_steps([20, 100, 100], batching, [5.0, 5.0, 1.7])
          array([6, 8, 4])
        """
        self.check_batching(batching)
        limit = _MAX_STEPS if self.max_steps is None else self.max_steps
        if self.max_seconds is not None:
            started = np.ceil(self.max_seconds * self._speeds(steps_per_second) * (1 - _ROUNDING))
            limit = np.clip(started, 1, limit).astype(np.int64)
        return batching.num_steps(num_examples, limit)

    def check_batching(self, batching: _batching.Batching) -> None:
        """Raises unless `batching` has as many epochs as this effort allows.

        Raises:
          TypeError: `batching` is not a `Batching`.
          ValueError: `max_epochs` is set and is not the batching's `num_epochs`.

        Example:
          >>> Effort(max_epochs=2).check_batching(_batching.Batching(batch_size=20))  # doctest: +ELLIPSIS
          Traceback (most recent call last):
          ValueError: Effort(max_epochs=2) must equal the num_epochs of the batching, got Batching(batch_size=20, ...
        """
        if not isinstance(batching, _batching.Batching):
            raise TypeError(f"an effort needs a Batching, got {batching!r}; use Batching(batch_size=20)")
        if self.max_epochs not in (None, batching.num_epochs):
            raise ValueError(
                f"Effort(max_epochs={self.max_epochs}) must equal the num_epochs of the batching, got {batching}; use "
                f"Batching(batch_size={batching.batch_size}, num_epochs={self.max_epochs})"
            )

    def _speeds(self, steps_per_second) -> np.ndarray:
        if steps_per_second is None:
            raise ValueError(
                f"Effort(max_seconds={self.max_seconds}) needs the clients' speed, got none; use steps_per_second=10.0"
            )
        speeds = np.asarray(steps_per_second, np.float64)
        if not ((speeds > 0) & np.isfinite(speeds)).all():
            raise ValueError(f"steps_per_second must be positive and finite, got {steps_per_second!r}; use 10.0")
        return speeds
