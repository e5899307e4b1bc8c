"""Training processes that are killed: the script reads a line of JSON per process, and writes how it ended.

A line has `folder` and, optionally, `kill`: `rounds`, after how many rounds of this process, and then
`seconds`, or `events`, so many operations on files below a folder that is called `below`.

Each process is a fork of this one, which has imported everything but has not used JAX, so it starts in no time.
"""

import hashlib
import json
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
import warnings

import jax
import numpy as np
import optax
import orbax.checkpoint  # noqa: F401  imported before the fork

import fedjax_core as fc
from fedjax_core import algorithms, data, models, program

ROUNDS = 12


def run(folder: str, kill: dict | None) -> str:
    """Trains and evaluates from the folder's latest checkpoint; returns a digest of the final state and metrics."""
    fc.use_compilation_cache(pathlib.Path(folder).parent / "xla")
    warnings.simplefilter("error")
    trained, held_out = data.synthetic_iid(num_clients=6, key=jax.random.key(0)).split_examples(0.5)
    model = models.logistic_regression(60, 10)
    server_optimizer = optax.adam(0.01)
    process = algorithms.fed_avg(model, optax.sgd(0.05), server_optimizer=server_optimizer, key=jax.random.key(1))
    path, done = pathlib.Path(folder), []
    path.mkdir(parents=True, exist_ok=True)
    trigger = _trigger(kill)
    trigger(0)
    files = program.release_to_json_lines(path / "released.jsonl"), program.release_to_csv(path / "released.csv")
    run = program.Run(
        process,
        trained,
        sampler=2,
        batching=data.Batching(batch_size=10, shuffle=True),
        rounds=ROUNDS,
        folder=folder,
        evaluation=program.Evaluation(held_out, algorithms.fed_eval(model), every=3),
        checkpoints=program.Checkpoints(path / "checkpoints", every=1, keep_last=2),
        releases=files,
        exports=program.export_weights(),
        on_round=lambda told: trigger(done.append(told.number) or len(done)),
        progress=False,
        key=jax.random.key(2),
    )
    state, _, metrics, _ = run.train()
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((state._replace(key=jax.random.key_data(state.key)), metrics)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _trigger(kill: dict | None):
    """A function of the number of rounds so far, which makes the process die at the time that was drawn."""

    def told(rounds: int) -> None:
        if kill is None or rounds != kill["rounds"]:
            return
        if "seconds" in kill:
            threading.Thread(target=lambda: (time.sleep(kill["seconds"]), _die()), daemon=True).start()
        else:
            _die_after(kill["events"], kill["below"])

    return told


def _die_after(events: int, below: str) -> None:
    left = events

    def hook(event: str, arguments: tuple) -> None:
        nonlocal left
        touches_files = event == "open" or event.startswith(("os.", "shutil."))
        if touches_files and arguments and below in str(arguments[0]):
            left -= 1
            if left == 0:
                _die()

    sys.addaudithook(hook)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(write, run(job["folder"], job.get("kill")).encode())
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(write)
        with open(read) as file:
            digest = file.read()
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), "digest": digest}), flush=True)


if __name__ == "__main__":
    main()
