"""The processes of a job, and their coordinator."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Cluster(NamedTuple):
    """The processes that compute the rounds of a job together, one a host.

    Attributes:
      coordinator_address: where the first process listens, such as `"host0:1234"`.
      num_processes: how many there are.
      initialize: joins; takes `coordinator_address`, `num_processes` and `process_id`.
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    initialize: Callable[..., Any] = jax.distributed.initialize


def join_as_coordinator(cluster: Cluster) -> None:
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
        if getattr(cluster, name) is None:
            raise ValueError(
                f"run_std_server() has not been told {name}; begin the program with jax.distributed.initialize("
                "'host0:1234', num_processes=2, process_id=0), or give "
                f"Experiment(cluster=fc.program.Cluster({name}={example}, ...))"
            )
    cluster.initialize(
        coordinator_address=cluster.coordinator_address, num_processes=cluster.num_processes, process_id=0
    )
