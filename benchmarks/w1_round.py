"""One round of federated averaging against a hand-written JAX program, in one process, in turn.

Workload W1: softmax regression 784 -> 62 from zeros, 100 clients of 51 to 500 examples (lognormal,
median 200), 21,200 examples and 1,108 batches of 20 a round, client SGD with learning rate 0.02, one
local epoch without shuffling, server average weighted by examples. Data preparation is included.

The hand-written program knows the model, the optimizer and the data's layout: it deals the clients to
the devices, gathers their batches into one aligned buffer per device that it uses again every round,
and runs one compiled program with a loop over the clients and inside it one over exactly the client's
batches.

    python benchmarks/w1_round.py --rounds 15

prints one JSON object: medians in seconds, their ratio (ours over hand-written), and the largest
difference of each one's weights after two rounds from a NumPy float64 reference.
"""

import argparse
import json
import os
import statistics
import sys
import time

BATCH, LEARNING_RATE, CLIENTS, POPULATION, CLASSES, FEATURES = 20, 0.02, 100, 3400, 62, 784


def make_data(cohorts: int):
    """The examples of the clients of the first `cohorts` cohorts: `(examples by client, cohorts)`."""
    import numpy as np

    random = np.random.default_rng(0)
    sizes = np.clip(np.rint(200 * np.exp(0.35 * random.standard_normal(POPULATION))), 20, 500).astype(int)
    draw = np.random.RandomState(0)
    chosen = [draw.choice(POPULATION, CLIENTS, replace=False) for _ in range(cohorts)]
    means = (random.random((CLASSES, FEATURES)) < 0.25).astype(np.float32) * 0.6

    def examples(client):
        labels = random.integers(0, CLASSES, sizes[client]).astype(np.int32)
        noise = random.standard_normal((sizes[client], FEATURES), dtype=np.float32)
        return {"x": means[labels] + 0.3 * noise, "y": labels}

    return {int(c): examples(c) for c in np.unique(chosen)}, [c.tolist() for c in chosen]


def hand_written(clients: dict, devices: int):
    """`(weights, client ids) -> weights`, as one would write it for this workload alone."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("d",))
    sharding = NamedSharding(mesh, PartitionSpec("d"))
    offsets = np.concatenate([[0], np.cumsum([len(c["y"]) for c in clients.values()])])
    place = {client: i for i, client in enumerate(clients)}
    x = np.concatenate([c["x"] for c in clients.values()])
    y = np.concatenate([c["y"] for c in clients.values()])
    steps, per_device = 640, 64
    raw = np.zeros(devices * steps * BATCH * FEATURES * 4 + 64, np.uint8)
    start = -raw.ctypes.data % 64
    buffer = raw[start : raw.size - 64 + start].view(np.float32).reshape(devices, steps, BATCH, FEATURES)

    def loss(w, x, y, mask):
        log_probabilities = jax.nn.log_softmax(x @ w["kernel"] + w["bias"])
        losses = -jnp.take_along_axis(log_probabilities, y[:, None], 1)[:, 0]
        return jnp.sum(losses * mask) / jnp.maximum(jnp.sum(mask), 1.0)

    def train_device(initial, x, y, mask, first, count, weight):
        def client(total, k):
            def step(t, w):
                gradient = jax.grad(loss)(w, x[0, t], y[0, t], mask[0, t])
                return jax.tree.map(lambda a, g: a - LEARNING_RATE * g, w, gradient)

            trained = jax.lax.fori_loop(first[0, k], first[0, k] + count[0, k], step, initial)
            return jax.tree.map(lambda t, a, b: t + weight[0, k] * (a - b), total, trained, initial), None

        zeros = jax.tree.map(jnp.zeros_like, initial)
        total, _ = jax.lax.scan(client, zeros, jnp.arange(per_device))
        total = jax.lax.psum(total, "d")
        examples = jax.lax.psum(weight.sum(), "d")
        return jax.tree.map(lambda w, t: w + t / examples, initial, total)

    sharded = PartitionSpec("d")
    program = jax.jit(
        jax.shard_map(
            train_device,
            mesh=mesh,
            in_specs=(PartitionSpec(), *(sharded,) * 6),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
    )

    def round_(weights, ids):
        size = {i: int(offsets[place[i] + 1] - offsets[place[i]]) for i in ids}
        lanes = [[] for _ in range(devices)]
        load = [0] * devices
        for i in sorted(ids, key=lambda i: -size[i]):
            lane = load.index(min(load))
            lanes[lane].append(i)
            load[lane] += -(-size[i] // BATCH)
        index = np.zeros((devices, steps, BATCH), np.int64)
        mask = np.zeros((devices, steps, BATCH), np.float32)
        first, count = np.zeros((2, devices, per_device), np.int32)
        weight = np.zeros((devices, per_device), np.float32)
        for d, lane in enumerate(lanes):
            at = 0
            for k, i in enumerate(lane):
                n, batches = size[i], -(-size[i] // BATCH)
                rows = np.arange(batches * BATCH)
                index[d, at : at + batches] = (offsets[place[i]] + np.where(rows < n, rows, 0)).reshape(-1, BATCH)
                mask[d, at : at + batches] = (rows < n).reshape(-1, BATCH)
                first[d, k], count[d, k], weight[d, k] = at, batches, n
                at += batches
        np.take(x, index, 0, out=buffer, mode="clip")
        arrays = [jax.device_put(a, sharding) for a in (buffer, y[index], mask, first, count, weight)]
        return jax.block_until_ready(program(weights, *arrays))

    return round_


def ours(clients: dict, devices: int):
    """`(state, client ids) -> state` and the process, through the public API."""
    import jax
    import optax

    import fedjax_core as fc

    data = fc.data.from_clients(clients)
    model = fc.models.logistic_regression(FEATURES, CLASSES)
    process = fc.algorithms.fed_avg(model, optax.sgd(LEARNING_RATE), key=jax.random.key(0))
    next_round = process.next.with_config(fc.EngineConfig(lanes=1, devices=devices))
    batching = fc.data.Batching(batch_size=BATCH)

    def round_(state, ids):
        return jax.block_until_ready(next_round(state, data.cohort(ids, batching)).state)

    return round_, process


def reference(clients: dict, cohorts: list, rounds: int = 2):
    """The weights after some rounds in NumPy float64."""
    import numpy as np

    w, b = np.zeros((FEATURES, CLASSES)), np.zeros(CLASSES)
    for ids in cohorts[:rounds]:
        total_w, total_b, total = 0, 0, 0
        for i in ids:
            x, y = clients[i]["x"].astype(np.float64), clients[i]["y"]
            cw, cb = w.copy(), b.copy()
            for at in range(0, len(y), BATCH):
                xb, yb = x[at : at + BATCH], y[at : at + BATCH]
                logits = xb @ cw + cb
                p = np.exp(logits - logits.max(1, keepdims=True))
                p /= p.sum(1, keepdims=True)
                p[np.arange(len(yb)), yb] -= 1
                cw -= LEARNING_RATE * xb.T @ p / len(yb)
                cb -= LEARNING_RATE * p.sum(0) / len(yb)
            total_w, total_b, total = total_w + len(y) * cw, total_b + len(y) * cb, total + len(y)
        w, b = total_w / total, total_b / total
    return {"kernel": w, "bias": b}


def measure(rounds: int, devices: int) -> dict:
    """Runs both in turn and returns what the module prints."""
    import jax.numpy as jnp
    import numpy as np

    clients, cohorts = make_data(8)
    theirs = hand_written(clients, devices)
    mine, process = ours(clients, devices)
    weights = {"kernel": jnp.zeros((FEATURES, CLASSES)), "bias": jnp.zeros(CLASSES)}
    state = process.initialize()
    for ids in cohorts[:2]:
        weights, state = theirs(weights, ids), mine(state, ids)
    expected = reference(clients, cohorts)
    found = {"hand_written": weights, "ours": process.get_model_weights(state)}
    errors = {name: max(float(np.abs(w[k] - expected[k]).max()) for k in expected) for name, w in found.items()}
    times = {"hand_written": [], "ours": []}
    for r in range(rounds):
        ids = cohorts[2 + r % (len(cohorts) - 2)]
        begin = time.perf_counter()
        theirs(weights, ids)
        middle = time.perf_counter()
        mine(state, ids)
        times["hand_written"].append(middle - begin)
        times["ours"].append(time.perf_counter() - middle)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [b / a for a, b in zip(times["hand_written"], times["ours"])]
    return {
        "workload": "W1",
        "devices": devices,
        "rounds": rounds,
        "hand_written_s": medians["hand_written"],
        "ours_s": medians["ours"],
        "ratio": medians["ours"] / medians["hand_written"],
        "ratio_of_pairs_median": statistics.median(ratios),
        "max_error": errors,
    }


def main(argv=None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="One W1 round against a hand-written JAX program.")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds of each, in turn")
    parser.add_argument("--devices", type=int, default=os.cpu_count(), help="CPU devices")
    args = parser.parse_args(argv)
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={args.devices}"
    print(json.dumps(measure(args.rounds, args.devices), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
