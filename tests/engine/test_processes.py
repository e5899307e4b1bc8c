"""Several processes over `jax.distributed`, with the Gloo collectives of CPU."""

import functools
import json
import pathlib
import subprocess

import pytest

from tests.jobs import run_job

WORKER = pathlib.Path(__file__).parent / "process_worker.py"


@functools.cache
def results(processes: int, devices: int, budget: int = 0) -> list[dict]:
    finished = run_job(WORKER, processes, devices, budget)
    for process in finished:
        assert process.returncode == 0, process.stderr
    return [json.loads(process.stdout.splitlines()[-1]) for process in finished]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices", "budget"), [(2, 1, 0), (3, 1, 0), (4, 1, 0), (2, 2, 0), (2, 1, 2000)])
def test_processes_change_no_bit_and_read_only_their_own_clients(processes, devices, budget):
    (alone,) = results(1, 2)
    together = results(processes, devices, budget)
    assert {result["digest"] for result in together} == {alone["digest"]}
    assert all((result["waves"] > 1) == (budget > 0) for result in together)
    read = [client for result in together for client in result["read"]]
    assert sorted(read) == alone["read"]
    assert all(result["read"] for result in together)


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_a_process_that_dies_ends_the_others(dies):
    finished = run_job(WORKER, 2, 1, 0, dies)
    assert finished[dies].returncode == 9
    assert_told(finished[1 - dies])


@pytest.mark.slow
@pytest.mark.parametrize("stops", [0, 1])
def test_a_process_that_falls_silent_ends_the_others(stops):
    """Its connections stay open, as those of a machine that has lost its network do."""
    finished = run_job(WORKER, 2, 1, 0, -1, stops, stops=stops)
    assert_told(finished[1 - stops])


def assert_told(survivor: subprocess.CompletedProcess):
    assert survivor.returncode != 0
    told = "another process of the run has ended" in survivor.stderr or "another task died" in survivor.stderr
    assert told, survivor.stderr
