"""One of several processes that run the same rounds: `rank processes port devices budget [dies [stops]]`.

Prints one JSON line: a digest of all bits that the rounds left, and the clients that this process read. In the
third round the process of rank `dies` ends, and that of rank `stops` comes to a halt.
"""

import hashlib
import json
import os
import signal
import sys

import jax
import numpy as np
import optax


def main(rank: int, processes: int, port: int, devices: int, budget: int, dies: int = -1, stops: int = -1):
    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, rank, heartbeat_timeout_seconds=10)
    import fedjax_core as fc

    rng = np.random.default_rng(0)
    clients = {}
    for number, size in enumerate(rng.integers(0, 40, 30).tolist()):
        x = rng.normal(size=(size, 6)).astype(np.float32)
        clients[number] = {"x": x, "y": rng.integers(0, 3, size).astype(np.int32), "client": np.full(size, number)}
    read = set()

    def seen(examples):
        read.update(examples["client"].tolist())
        return {"x": examples["x"], "y": examples["y"]}

    data = fc.data.FederatedData.from_clients(clients).map(seen)
    read.clear()
    model = fc.models.logistic_regression(6, 3, metrics={"accuracy": fc.metrics.accuracy()})
    server_optimizer = optax.adam(0.1)
    process = fc.algorithms.fed_avg(model, optax.sgd(0.1), server_optimizer=server_optimizer, key=jax.random.key(0))
    config = fc.EngineConfig(memory_budget=budget or None)
    next_round = process.next.with_config(config)
    state = process.initialize()
    cohort = data.cohort(data.client_ids, fc.data.Batching(5))
    for round_num in range(3):
        if round_num == 2 and rank == dies:
            os._exit(9)
        if round_num == 2 and rank == stops:
            os.kill(os.getpid(), signal.SIGSTOP)
        state, metrics = next_round(state, cohort)

    @fc.federated_computation(fc.at_clients(cohort.member_type), fc.at_clients("key<fry>"))
    def collect(data, keys):
        return fc.federated_collect(fc.federated_map(lambda data: data.sum()["x"], data)), keys

    keys = jax.random.split(jax.random.key(3), len(cohort))
    collected, same_keys = collect.with_config(config)(cohort, keys)
    digest = hashlib.sha256()
    left = (state.weights, state.finalizer, metrics, collected, jax.random.key_data(same_keys))
    for leaf in jax.tree.leaves(left):
        digest.update(np.asarray(leaf).tobytes())
    waves = max(packing.schedule.num_waves for packing in cohort.packed.values())
    print(json.dumps({"digest": digest.hexdigest(), "read": sorted(read), "waves": waves}), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
