"""The processes of a job, and the place of this one among them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Job(NamedTuple):
    """The processes that share an `Experiment`, and the place of this one among them.

    Attributes:
      coordinator_address: of the `jax.distributed` job, where its first process listens, such as `"host0:1234"`.
      num_processes: how many processes that job has.
      worker: the number of this process among workers that train one after another, from 0; only worker 0 writes.
      delay_scale: the factor of the rounds that a worker waits for, see `Experiment`.
      initialize: joins the job; takes `coordinator_address`, `num_processes` and `process_id`.
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    worker: int = 0
    delay_scale: float = 1.0
    initialize: Callable[..., Any] = jax.distributed.initialize


def join_as_coordinator(job: Job) -> None:
    """Makes this process the coordinator, if it is not yet.

    Raises:
      ValueError: a setting is missing, or this process has joined as another one.
    """
    if jax.distributed.is_initialized():
        if jax.process_index() != 0:
            raise ValueError(
                f"run_std_server() is for the coordinator, process_id=0, and this is process_id={jax.process_index()}; "
                "call train() here"
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
