"""Jobs of several processes over `jax.distributed`, on this machine."""

import os
import pathlib
import socket
import subprocess
import sys

HANG = 240  # seconds, far longer than any job takes


def run_job(
    worker: pathlib.Path, processes: int, *arguments, stops: int | None = None
) -> list[subprocess.CompletedProcess]:
    """Runs a script in several processes and waits for all of them.

    Args:
      worker: the script. Its arguments are its rank, the number of processes, the coordinator's port and `arguments`.
      processes: the number of processes.
      arguments: further arguments, the same for all processes.
      stops: the rank of a process that stops responding, and is killed once the others have ended; None for none.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    started = []
    for rank in range(processes):
        command = [sys.executable, worker, *map(str, (rank, processes, port, *arguments))]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment))
    try:
        outputs = {p: p.communicate(timeout=HANG) for rank, p in enumerate(started) if rank != stops}
    finally:
        for process in started:
            process.kill()
    outputs |= {p: p.communicate() for p in started if p not in outputs}
    return [subprocess.CompletedProcess(p.args, p.returncode, *outputs[p]) for p in started]
