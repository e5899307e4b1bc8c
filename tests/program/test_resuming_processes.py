"""Several processes over `jax.distributed` that checkpoint and resume one run."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

WORKER = pathlib.Path(__file__).parent / "resuming_worker.py"
HANG = 240  # seconds; far beyond what this takes


def _run(processes: int, folder: pathlib.Path, *rounds: int) -> list[str]:
    """The digests that the processes print."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    started = []
    for rank in range(processes):
        command = [sys.executable, WORKER, *map(str, (rank, processes, port, folder, *rounds))]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment))
    try:
        outputs = [process.communicate(timeout=HANG) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, outputs, strict=True):
        assert process.returncode == 0, errors
    return [printed.splitlines()[-1] for printed, _ in outputs]


@pytest.mark.slow
def test_processes_resume_one_run(tmp_path):
    """The first one writes and all read; the bits are those of one process that was never interrupted."""
    alone = _run(1, tmp_path / "alone", 4)
    assert set(_run(2, tmp_path / "together", 2, 4)) == set(alone)
    assert sorted(path.name for path in (tmp_path / "together").iterdir()) == ["2", "3", "4"]
    assert _run(1, tmp_path / "together", 4) == alone
