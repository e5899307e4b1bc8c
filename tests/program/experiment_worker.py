"""One experiment in several processes: `python experiment_worker.py ROLE FOLDER [PORT]`.

The roles: `train`, and `watch` in another process; `train` waits after each round until it has been evaluated.
`coordinate` and `follow` are the two processes of one job.
"""

import json
import pathlib
import sys
import time

import jax
import optax

from fedjax_core import algorithms, data, models, program

ROUNDS = 4
_PATIENCE = 300.0


def experiment(folder: str, **more) -> program.Experiment:
    train_data, eval_data = data.synthetic_iid(num_clients=6, key=jax.random.key(0)).split_examples(0.5)
    model = models.logistic_regression(60, 10)
    return program.Experiment(
        algorithms.fed_avg(model, optax.sgd(0.05), key=jax.random.key(1)),
        train_data,
        eval_data,
        cohort_size=2,
        batching=data.Batching(batch_size=10, shuffle=True),
        train_rounds=ROUNDS,
        throttle_secs=0.05,
        evaluation=model,
        key=jax.random.key(2),
        checkpoints=program.Checkpoints(pathlib.Path(folder) / "checkpoints", every=1, keep_last=2),
        run_dir=folder,
        **more,
    )


def evaluated(folder: str) -> list[int]:
    path = pathlib.Path(folder) / "evaluation" / "metrics.jsonl"
    return [json.loads(line)["round"] for line in path.read_text().splitlines()] if path.exists() else []


def _wait_for_watcher(folder: str):
    def wait(told: program.Round) -> None:
        """The checkpoint of the round is being written meanwhile."""
        end = time.monotonic() + _PATIENCE
        while told.number not in evaluated(folder):
            if time.monotonic() > end:
                raise TimeoutError(f"nobody evaluated round {told.number}")
            time.sleep(0.02)

    return wait


def main() -> None:
    role, folder, *port = sys.argv[1:]
    if role == "train":
        experiment(folder, train_hooks=[_wait_for_watcher(folder)]).train()
    if role == "watch":
        metrics = experiment(folder).continuous_eval()
        print(json.dumps({"loss": float(metrics["eval"]["loss"])}))
    if role == "coordinate":
        _join(port, 0)
        experiment(folder).run_std_server()
    if role == "follow":
        _join(port, 1)
        try:
            experiment(folder).run_std_server()
        except ValueError as error:
            assert "this is process_id=1" in str(error)
        state = experiment(folder).train()
        print(json.dumps({"weights": jax.tree.map(lambda leaf: leaf.tolist(), state.weights)}))


def _join(port: list[str], process_id: int) -> None:
    jax.distributed.initialize(f"localhost:{port[0]}", 2, process_id, heartbeat_timeout_seconds=10)


if __name__ == "__main__":
    main()
