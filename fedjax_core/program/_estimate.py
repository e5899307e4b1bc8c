"""The cost of a run, estimated before it starts."""

import datetime
from typing import NamedTuple

from fedjax_core.engine import CallEstimate


class Estimate(NamedTuple):
    """What a run costs; `print(estimate)` says it in words.

    Attributes:
      cohort_size: the number of clients in the next round with examples; it may differ between rounds.
      call: what that round costs, a `CallEstimate`: bytes, waves and programs.
      rounds_left: the number of rounds until the last one; None for a run without end.
      round_seconds: the median time of the timed rounds, without the first one, which compiles, and without skipped
        ones; None if no round was timed.

    Example:
      >>> call = CallEstimate(received_bytes=2440, sent_bytes=2452, device_bytes=51200, num_waves=1, num_programs=2)
      >>> print(Estimate(cohort_size=10, call=call, rounds_left=90, round_seconds=0.5))
      each of 10 clients receives 2.44 kB and sends 2.45 kB, 48.9 kB a round in all
      their data take 51.2 kB of a device, in 1 wave; 2 programs to compile
      90 rounds left, 0.5 s each, 0:00:45 in all without evaluation
    """

    cohort_size: int
    call: CallEstimate
    rounds_left: int | None
    round_seconds: float | None

    @property
    def seconds(self) -> float | None:
        """The time of the rounds left, if none is skipped, without evaluation; None if that is unknown."""
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
    """A number of bytes with three digits, in decimal units."""
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while number >= 999.5 and unit != "TB":
        number, unit = number / 1000, next(units)
    return f"{number:.3g} {unit}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
