"""W5 and W6: a model of many leaves and a model of a gigabyte, each beside the hand-written program.

W5 is 50 dense layers of 8 units for 10 clients of 40 examples, in batches of 10 (`--layers 200` for 400 leaves). What
counts is the processor time of the first round, which is mostly that of tracing and compiling, and of a steady one. W6
is softmax regression 20,000 -> 10,000 for 2 clients of 20 examples in one batch, and what counts is the largest
resident memory. Ours is `fed_avg` on one device through the public API; by hand it is one jitted function. Each
measurement runs in a process of its own, with no compiled program kept, and ours and the other take turns.

    python benchmarks/extremes.py --workloads W5,W6 --pairs 5

prints one JSON object: the medians of each, and the median of the ratios of pairs, ours to the hand-written.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
from _machine import machine

STEADY_ROUNDS = {"W5": 20, "W6": 2}
_RATE = 0.02


class Stack:
    """W5's model, data and batch size.

    Args:
      layers: the number of dense layers.
    """

    batch_size, classes, width = 10, 4, 8

    def __init__(self, layers: int):
        self.layers = layers
        random = np.random.default_rng(0)
        shape = (10, 40)
        self.x = random.normal(size=(*shape, self.width)).astype("f4")
        self.y = random.integers(0, self.classes, shape).astype("i4")

    def init(self, key) -> list:
        """`(kernel, bias)` of every layer."""
        import jax
        import jax.numpy as jnp

        keys = jax.random.split(key, self.layers)
        kernels = jax.vmap(lambda k: jax.random.normal(k, (self.width, self.width)) / self.width**0.5)(keys)
        return [(kernel, jnp.zeros(self.width)) for kernel in kernels]

    def predict(self, weights, x):
        """The logits `[B, 4]`."""
        import jax.numpy as jnp

        for kernel, bias in weights:
            x = jnp.tanh(x @ kernel + bias)
        return x[:, : self.classes]


class Softmax:
    """W6's model, data and batch size."""

    batch_size, classes, width = 20, 10_000, 20_000

    def __init__(self):
        self.x = np.ones((2, 20, self.width), "f4")
        self.y = np.arange(40, dtype="i4").reshape(2, 20)

    def init(self, key):
        """`(kernel, bias)`, zeros."""
        import jax.numpy as jnp

        return jnp.zeros((self.width, self.classes)), jnp.zeros(self.classes)

    def predict(self, weights, x):
        """The logits `[B, 10000]`."""
        kernel, bias = weights
        return x @ kernel + bias


def losses(logits, y):
    """The loss of each example."""
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def our_round(task):
    """A function from a state to the next, and the first state; the first call traces, compiles and packs."""
    import jax
    import optax

    import fedjax_core as fc

    model = fc.Model(
        init=task.init,
        predict=lambda weights, batch, key=None, training=False: task.predict(weights, batch["x"]),
        loss=lambda logits, batch: losses(logits, batch["y"]),
        metrics={},
        batch_type=fc.types.to_type({"x": f"float32[?,{task.width}]", "y": "int32[?]"}),
    )
    process = fc.algorithms.fed_avg(model, optax.sgd(_RATE), key=jax.random.key(0))
    data = fc.data.from_clients([{"x": x, "y": y} for x, y in zip(task.x, task.y)])
    cohort = data.cohort(data.client_ids, fc.data.Batching(task.batch_size))
    state = process.set_model_weights(process.initialize(), task.init(jax.random.key(0)))
    return lambda state: process.next(state, cohort)[0], state


def hand_written_round(task):
    """The same by hand: federated averaging, with the clients' training losses."""
    import jax
    import jax.numpy as jnp

    clients, examples = task.y.shape
    batches = examples // task.batch_size
    x = jnp.asarray(task.x.reshape(clients, batches, task.batch_size, task.width))
    y = jnp.asarray(task.y.reshape(clients, batches, task.batch_size))

    def step(weights, batch):
        loss, slope = jax.value_and_grad(lambda w: losses(task.predict(w, batch[0]), batch[1]).mean())(weights)
        return jax.tree.map(lambda w, g: w - _RATE * g, weights, slope), loss

    @jax.jit
    def next(state):
        def client(total, data):
            weights, found = jax.lax.scan(step, state[0], data)
            return jax.tree.map(lambda t, w, old: t + (w - old), total, weights, state[0]), found.mean()

        total, loss = jax.lax.scan(client, jax.tree.map(jnp.zeros_like, state[0]), (x, y))
        return jax.tree.map(lambda w, t: w + t / clients, state[0], total), loss.mean()

    return next, (jax.jit(task.init)(jax.random.key(0)), jnp.zeros(()))


def measure(workload: str, program: str, layers: int) -> dict:
    """The costs of one program, in this process."""
    import jax

    task = Stack(layers) if workload == "W5" else Softmax()
    begin = time.process_time()
    next, state = (our_round if program == "ours" else hand_written_round)(task)
    initial = np.asarray(_first_leaf(state)[:8])  # a part: a copy of W6's would count as memory
    state = jax.block_until_ready(next(state))
    first, rounds = time.process_time() - begin, STEADY_ROUNDS[workload]
    state = jax.block_until_ready(next(state))
    begin = time.process_time()
    for _ in range(rounds):
        state = jax.block_until_ready(next(state))
    steady = (time.process_time() - begin) / rounds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # before anything is copied to compare it
    moved = float(np.linalg.norm(np.asarray(_first_leaf(state)[:8]) - initial))
    return {"first_processor_s": first, "steady_processor_s": steady, "peak_bytes": peak, "moved": moved}


def _first_leaf(state):
    """The kernel of the first layer, by which the two programs are compared."""
    import jax

    return jax.tree.leaves(state.weights if hasattr(state, "weights") else state[0])[0]


def in_turn(workload: str, pairs: int, layers: int) -> dict:
    """Both programs in processes of their own, in turn, each first as often as the other.

    Raises:
      AssertionError: their weights differ.
    """
    found = {"ours": [], "hand_written": []}
    for pair in range(pairs):
        for program in list(found)[:: 1 if pair % 2 else -1]:
            command = [sys.executable, __file__, "--one", workload, program, "--layers", str(layers)]
            out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=pathlib.Path.cwd()).stdout
            found[program].append(json.loads(out))
    ours, by_hand = (found[program][0]["moved"] for program in found)
    if not np.isclose(ours, by_hand, rtol=1e-3):
        raise AssertionError(f"{workload}: ours has moved the weights by {ours}, and the other by {by_hand}")
    names = [name for name in found["ours"][0] if name != "moved"]
    medians = {p: {n: statistics.median(one[n] for one in found[p]) for n in names} for p in found}
    ratios = {n: statistics.median(a[n] / b[n] for a, b in zip(*found.values())) for n in names}
    return medians | {"ratio_of_pairs_median": ratios, "pairs": pairs}


def main(argv=None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="A model of many leaves and a large one, beside the hand-written.")
    parser.add_argument("--workloads", default="W5,W6", help="with commas between")
    parser.add_argument("--pairs", type=int, default=5, help="how often each program is measured")
    parser.add_argument("--layers", type=int, default=50, help="W5's dense layers")
    parser.add_argument("--one", nargs=2, metavar=("WORKLOAD", "PROGRAM"), help="one program, in this process")
    args = parser.parse_args(argv)
    for name in ("pairs", "layers"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is at least 1, got {getattr(args, name)}")
    if unknown := set(args.workloads.split(",")) - set(STEADY_ROUNDS):
        parser.error(f"--workloads takes W5 and W6, got {', '.join(sorted(unknown))}")
    if args.one:
        print(json.dumps(measure(*args.one, args.layers)))
        return 0
    results = {workload: in_turn(workload, args.pairs, args.layers) for workload in args.workloads.split(",")}
    print(json.dumps({"machine": machine(), "layers": args.layers, **results}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
