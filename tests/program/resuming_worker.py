"""One of several processes that share a run's folder; its arguments are `rank processes port folder rounds...`.

Trains up to each of the rounds in turn, resuming, and prints a digest of the final state.
"""

import hashlib
import sys
import warnings

import jax
import numpy as np
import optax


def main(rank: int, processes: int, port: int, folder: str, *rounds: int) -> None:
    jax.config.update("jax_num_cpu_devices", 2 // processes)
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, rank, heartbeat_timeout_seconds=10)
    from jax.experimental import multihost_utils

    import fedjax_core as fc

    warnings.simplefilter("error")
    data = fc.data.synthetic_iid(num_clients=8, key=jax.random.key(0))
    model = fc.models.logistic_regression(60, 10)
    server_optimizer = optax.adam(0.1)
    process = fc.algorithms.fed_avg(model, optax.sgd(0.05), server_optimizer=server_optimizer, key=jax.random.key(1))
    for last in rounds:
        multihost_utils.sync_global_devices(f"up to {last}")  # the first process has written what all will read
        result = fc.program.train(
            process,
            data,
            sampler=4,
            rounds=last,
            batching=fc.data.Batching(10, shuffle=True),
            key=jax.random.key(2),
            checkpoints=fc.program.Checkpoints(f"{folder}/checkpoints", every=1),
            folder=fc.program.RunFolder(f"{folder}/run", resume=True),
            releases=fc.program.release_to_json_lines(f"{folder}/released {rank}.jsonl"),
        )
    assert len(result.history) == last
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(result.state._replace(key=jax.random.key_data(result.state.key))):
        digest.update(np.asarray(leaf).tobytes())
    print(digest.hexdigest(), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), sys.argv[4], *map(int, sys.argv[5:]))
