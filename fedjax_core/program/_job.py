"""The processes of a job, and the role of this one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Job(NamedTuple):
    """The processes that share an `Experiment`, and the role of this one.

    Attributes:
      coordinator_address: where the first process of the `jax.distributed` job listens, such as `"host0:1234"`.
      num_processes: the number of processes in that job.
      worker: the number of this process, from 0, among workers that begin one after another; only worker 0 writes.
      delay_scale: scales the number of rounds that a worker waits for; see `delay_by_round` of `Experiment`.
      initialize: joins the job; a function of `coordinator_address`, `num_processes` and `process_id`.
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    worker: int = 0
    delay_scale: float = 1.0
    initialize: Callable[..., Any] = jax.distributed.initialize


def join_as_coordinator(job: Job) -> None:
    """Makes this process the coordinator, if it is not the coordinator yet.

    Raises:
      ValueError: a setting is missing, or this process has joined the job with another process id.
    """
    if jax.distributed.is_initialized():
        if jax.process_index() != 0:
            raise ValueError(
                f"run_std_server() must be called by the coordinator, process_id=0, and this is process_id="
                f"{jax.process_index()}; call train() here"
            )
        return
    for name, example in (("coordinator_address", "'host0:1234'"), ("num_processes", "2")):
        if getattr(job, name) is None:
            raise ValueError(
                f"run_std_server() needs the {name} of the job, got None; begin the program with "
                "jax.distributed.initialize('host0:1234', num_processes=2, process_id=0), or give "
                f"Experiment(job=fc.program.Job({name}={example}, ...))"
            )
    job.initialize(coordinator_address=job.coordinator_address, num_processes=job.num_processes, process_id=0)
