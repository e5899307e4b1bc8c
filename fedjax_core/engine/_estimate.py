"""What a call takes of clients, devices and the compiler, known before it is made."""

from typing import NamedTuple

from fedjax_core.engine._cohort import Cohort
from fedjax_core.engine._communication import exchanges, size_of
from fedjax_core.engine._config import Layout
from fedjax_core.engine._plan import Plan
from fedjax_core.engine._schedule import make_schedule, wave_bytes


class CallEstimate(NamedTuple):
    """What a call of a computation on a cohort takes.

    Attributes:
      received_bytes: what each client receives, as `Computation.describe` counts it; of a value with a dimension `?`
        nothing counts.
      sent_bytes: what each client sends, likewise.
      device_bytes: what the clients' data take on one device at a time, padding included.
      num_waves: in how many parts the cohort runs, one after the other.
      num_programs: how many XLA programs are compiled for it, unless they are there already; the small ones that only
        move arrays between devices do not count.
    """

    received_bytes: int
    sent_bytes: int
    device_bytes: int
    num_waves: int
    num_programs: int


def estimate(plan: Plan, layout: Layout, cohort: Cohort) -> CallEstimate:
    """Estimates a call; reads no example and compiles nothing."""
    schedule, communicated = make_schedule(cohort, layout), exchanges(plan)
    received = [size_of(exchange.received).num_bytes for exchange in communicated]
    sent = [size_of(exchange.sent).num_bytes for exchange in communicated]
    # A cohort in several waves begins each pass with accumulators that a program of their own makes.
    of_passes = len(plan.passes) * (2 if schedule.num_waves > 1 else 1)
    return CallEstimate(
        received_bytes=sum(received),
        sent_bytes=sum(sent),
        device_bytes=wave_bytes(cohort, schedule, layout.lanes) if plan.passes else 0,
        num_waves=schedule.num_waves,
        num_programs=sum(bool(phase.outputs) for phase in plan.phases) + of_passes,
    )
