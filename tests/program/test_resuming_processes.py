"""Several processes over `jax.distributed` that checkpoint and resume one run."""

import csv
import pathlib

import pytest

from tests.jobs import run_job

WORKER = pathlib.Path(__file__).parent / "resuming_worker.py"


def _run(processes: int, folder: pathlib.Path, *rounds: int) -> list[str]:
    """The digests that the processes print."""
    finished = run_job(WORKER, processes, folder, *rounds)
    for process in finished:
        assert process.returncode == 0, process.stderr
    return [process.stdout.splitlines()[-1] for process in finished]


@pytest.mark.slow
def test_processes_resume_one_run(tmp_path):
    """The first process writes and all read; the bits are those of a single process that was never interrupted."""
    alone = _run(1, tmp_path / "alone", 4)
    assert set(_run(2, tmp_path / "together", 2, 4)) == set(alone)
    assert {path.name for path in (tmp_path / "together").iterdir()} == {"checkpoints", "run", "released 0.jsonl"}
    assert sorted(path.name for path in (tmp_path / "together" / "checkpoints").iterdir()) == ["2", "3", "4"]
    with open(tmp_path / "together" / "run" / "metrics.csv", newline="") as file:
        assert [row["round"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]
    assert _run(1, tmp_path / "together", 4) == alone
