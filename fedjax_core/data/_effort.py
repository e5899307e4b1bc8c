"""How long a client trains."""

import dataclasses
import math

import numpy as np

from fedjax_core.data import _batching

_MAX_STEPS = 2**31 - 1
_ROUNDING = 1e-9  # 0.7 seconds at 10 steps a second are 7 steps, though 0.7 * 10 > 7 in floating point


@dataclasses.dataclass(frozen=True)
class Effort:
    """Limits of local training; whichever saturates first ends it.

    Steps and seconds are looked at after every step, so that at least one step runs, and the step
    within which the seconds run out is the last one. For simulated clients the limits become a number
    of steps for each client, `num_steps`, from a simulated speed: no clock is read.

    Attributes:
      max_epochs: how often a client's examples are gone through, at least 1. It is the `num_epochs` of the batching.
      max_steps: number of batches, at least 1.
      max_seconds: of training, positive.

    Raises:
      TypeError: an epoch or step limit that is no integer, seconds that are no number.
      ValueError: a limit of zero or less, or not finite, or no limit at all.

    Example:
      >>> Effort(max_steps=100, max_seconds=60.0)
      Effort(max_epochs=None, max_steps=100, max_seconds=60.0)
      >>> Effort()
      Traceback (most recent call last):
      ValueError: Effort() sets no limit, and training would not end; for example Effort(max_epochs=1)
    """

    max_epochs: int | None = None
    max_steps: int | None = None
    max_seconds: float | None = None

    def __post_init__(self):
        if self.max_epochs is None and self.max_steps is None and self.max_seconds is None:
            raise ValueError("Effort() sets no limit, and training would not end; for example Effort(max_epochs=1)")
        self._check("max_epochs", int, "an integer", 1)
        self._check("max_steps", int, "an integer", 100)
        self._check("max_seconds", float, "a number", 60.0)

    def _check(self, name: str, kind: type, described: str, example) -> None:
        value = getattr(self, name)
        if value is None:
            return
        allowed = int | np.integer if kind is int else int | float | np.integer | np.floating
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise TypeError(f"Effort({name}=...) must be {described}, got {value!r}; for example {name}={example}")
        if not 0 < value < math.inf:
            raise ValueError(
                f"Effort({name}=...) must be positive and finite, got {value}; for example {name}={example}, or leave "
                "it out where another limit holds"
            )
        object.__setattr__(self, name, kind(value))

    def num_steps(
        self,
        num_examples: np.ndarray,
        batching: _batching.Batching,
        steps_per_second: float | np.ndarray | None = None,
    ) -> np.ndarray:
        """The number of steps that clients of these sizes take under all limits.

        Args:
          num_examples: of each client, `[C]`.
          batching: how the examples become batches. Its `num_epochs` is one of the limits; with `None` steps and
            seconds alone decide, and small clients go through their examples more often than large ones.
          steps_per_second: speed of each client, positive, a number or `[C]`; needed with `max_seconds`.

        Returns:
          int64 `[C]`, for `data.cohort(..., max_steps=...)`; 0 for a client without a batch.

        Raises:
          ValueError: `max_epochs` is not the batching's, a speed is missing, not positive or not finite.

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
        """Refuses a batching with other epochs.

        Raises:
          TypeError: it is no `Batching`.
          ValueError: the epochs differ.
        """
        if not isinstance(batching, _batching.Batching):
            raise TypeError(f"an effort needs a Batching, got {batching!r}; use Batching(batch_size=20)")
        if self.max_epochs not in (None, batching.num_epochs):
            raise ValueError(
                f"Effort(max_epochs={self.max_epochs}) is the num_epochs of the batching, got {batching}; use "
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
