"""A federation of four processes against its simulation."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import optax

import fedjax_core as fc
from fedjax_core.program import load_weights, save_weights
from tests import learning_references as reference
from tests.participant import loopback_worker as worker

ROUNDS = 5
HANG = 240  # seconds; far beyond what this takes


def start(*arguments) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, worker.__file__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run_federation(folder: pathlib.Path, num_participants: int):
    """One server and its participants, each in its own process."""
    processes = [start("server", folder, num_participants, ROUNDS)]
    try:
        port = processes[0].stdout.readline().strip()
        processes += [start("participant", folder, port, number) for number in range(num_participants)]
        for process in processes:
            _, errors = process.communicate(timeout=HANG)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()


def test_processes_that_exchange_bytes_reach_the_weights_of_the_simulation(tmp_path):
    clients = reference.make_clients((7, 4, 10))
    process = fc.algorithms.fed_avg(worker.make_model(), optax.sgd(worker.RATE), key=jax.random.key(0))
    state = process.initialize()
    initial = reference.linear_model().init(jax.random.key(1))
    state = process.set_model_weights(state, initial)
    save_weights(initial, tmp_path / "initial.npz")
    for number, client in enumerate(clients.values()):
        np.savez(tmp_path / f"{number}.npz", **client)
    run_federation(tmp_path, len(clients))

    cohort = fc.data.from_clients(clients).cohort(list(clients), fc.data.Batching(**worker.BATCHES))
    for _ in range(ROUNDS):
        state, _ = process.next(state, cohort)
    simulated = process.get_model_weights(state)
    trained = load_weights(tmp_path / "trained.npz", like=simulated)
    reference.assert_close(trained, simulated, rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(trained["kernel"]) - np.asarray(initial["kernel"])).max() > 0.1
    expected = reference.evaluate(reference.as_float64(simulated), clients)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
