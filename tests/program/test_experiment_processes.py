"""Experiments in several processes: one watches another train, and two train together."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from fedjax_core.program import Checkpoints
from tests.program import experiment_worker

WORKER = pathlib.Path(experiment_worker.__file__)


def _start(role: str, folder: pathlib.Path, *more: str) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, WORKER, role, str(folder), *more], env=environment, **pipes)


@pytest.mark.slow
def test_a_process_watches_another_one_train(tmp_path):
    with _start("watch", tmp_path) as watcher, _start("train", tmp_path) as trainer:
        try:
            _, trained = trainer.communicate(timeout=300)
            watched, warned = watcher.communicate(timeout=300)
        finally:
            watcher.kill()
            trainer.kill()
    assert trainer.returncode == 0, trained
    assert watcher.returncode == 0, warned
    rounds = list(range(1, experiment_worker.ROUNDS + 1))
    assert experiment_worker.evaluated(tmp_path) == rounds  # each once
    loss = json.loads(watched)["loss"]
    np.testing.assert_allclose(
        loss, float(experiment_worker.experiment(tmp_path).evaluate()["eval"]["loss"]), rtol=1e-5
    )


@pytest.mark.slow
def test_a_coordinator_takes_its_part_until_the_job_is_done(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    with _start("coordinate", tmp_path, port) as first, _start("follow", tmp_path, port) as second:
        try:
            followed, warned = second.communicate(timeout=300)
            _, coordinated = first.communicate(timeout=300)
        finally:
            first.kill()
            second.kill()
    assert second.returncode == 0, warned
    assert first.returncode == 0, coordinated
    weights = json.loads(followed.splitlines()[-1])["weights"]  # the first one is gloo's
    alone = experiment_worker.experiment(tmp_path / "alone").train()
    for name, values in weights.items():
        np.testing.assert_allclose(values, alone.weights[name], rtol=1e-5, atol=1e-6)
    written = np.load(tmp_path / "weights.npz")
    assert written["kernel"].tolist() == weights["kernel"]
    assert Checkpoints(tmp_path / "checkpoints").rounds == (3, 4)
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 1 + experiment_worker.ROUNDS
