"""`continuous_eval` in a process of its own, while another one trains."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from tests.program import experiment_worker

WORKER = pathlib.Path(experiment_worker.__file__)


def _start(role: str, folder: pathlib.Path) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, WORKER, role, str(folder)], env=environment, **pipes)


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
