"""What a run takes, told before it is long."""

import datetime
from typing import NamedTuple

from fedjax_core.engine import CallEstimate


class Estimate(NamedTuple):
    """What a run takes; `print(estimate)` says it in words.

    Attributes:
      cohort_size: of the next round in which somebody has examples; other rounds may have others.
      call: what that round takes, a `CallEstimate`: bytes, waves and programs.
      rounds_left: until the last round; None where there is none.
      round_seconds: the median of the rounds that were timed, the first one, which compiles, and those that were
        skipped not among them; None where none was.
    """

    cohort_size: int
    call: CallEstimate
    rounds_left: int | None
    round_seconds: float | None

    @property
    def seconds(self) -> float | None:
        """Of the rounds that are left, if none is skipped, evaluation not included; None where that is not known."""
        if self.rounds_left is None or self.round_seconds is None:
            return None
        return self.rounds_left * self.round_seconds

    def __str__(self) -> str:
        call, clients = self.call, self.cohort_size
        lines = [
            f"each of {clients} clients receives {_bytes(call.received_bytes)} and sends {_bytes(call.sent_bytes)}, "
            f"{_bytes(clients * (call.received_bytes + call.sent_bytes))} a round in all",
            f"their data take {_bytes(call.device_bytes)} of a device, in {_counted(call.num_waves, 'wave')}; "
            f"{_counted(call.num_programs, 'program')} to compile",
        ]
        left = "rounds without end" if self.rounds_left is None else f"{_counted(self.rounds_left, 'round')} left"
        if self.round_seconds is None:
            lines.append(f"{left}; how long they take is known after some: estimate(rounds=2)")
        else:
            whole = "" if self.seconds is None else f", {datetime.timedelta(seconds=round(self.seconds))} in all"
            lines.append(f"{left}, {self.round_seconds:.3g} s each{whole} without evaluation")
        return "\n".join(lines)


def _bytes(number: float) -> str:
    """In units of 1000, of three digits."""
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while number >= 999.5 and unit != "TB":
        number, unit = number / 1000, next(units)
    return f"{number:.3g} {unit}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
