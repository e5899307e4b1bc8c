"""The cost of a call without its computing: a round that is compiled already, on a cohort that is packed already.

The model has 27 weights, and each of the four clients one example, so almost nothing is computed. There are two clocks:
the processor time of the calling thread until the call returns (the engine's Python, JAX's dispatch, transfers, and
the small programs that JAX runs on CPU in the thread that calls them), which other programs on the machine hardly
affect; and the wall clock time until the result is ready, which they do affect.

    python benchmarks/overhead.py --calls 500

prints one JSON object: the medians and minima of both, on one device and on all, in milliseconds.
"""

import argparse
import json
import os
import statistics
import sys
import time

import limits
import numpy as np

FEATURES, CLASSES, CLIENTS = 8, 3, 4
_WARM_UP = 20


def measure(devices: int, calls: int) -> dict:
    """Times calls of federated averaging, after some untimed ones.

    Args:
      devices: `EngineConfig.devices`.
      calls: the number of timed calls.
    """
    import jax
    import optax

    import fedjax_core as fc

    model = fc.models.logistic_regression(FEATURES, CLASSES)
    process = fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(0))
    next_round = process.next.with_config(fc.EngineConfig(lanes=1, devices=devices))
    client = {"x": np.ones((1, FEATURES), np.float32), "y": np.zeros(1, np.int32)}
    data = fc.data.FederatedData.from_clients([client] * CLIENTS)
    cohort, state = data.cohort(data.client_ids, fc.data.Batching(1)), process.initialize()
    thread, wall = [], []
    for _ in range(_WARM_UP + calls):
        begin, begin_thread = time.perf_counter(), time.thread_time()
        state, metrics = next_round(state, cohort)
        thread.append(time.thread_time() - begin_thread)
        jax.block_until_ready((state, metrics))
        wall.append(time.perf_counter() - begin)
    both = {"thread_ms": thread[_WARM_UP:], "wall_ms": wall[_WARM_UP:]}
    summary = {name: {"median": 1e3 * statistics.median(x), "least": 1e3 * min(x)} for name, x in both.items()}
    return {"devices": devices, "calls": calls, **summary}


def main(argv=None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="What a call costs beside computing.")
    parser.add_argument("--calls", type=int, default=500, help="timed calls")
    parser.add_argument("--devices", type=int, default=os.cpu_count(), help="CPU devices")
    args = parser.parse_args(argv)
    if args.calls < 1:
        parser.error(f"--calls is at least 1, got {args.calls}")
    devices = limits.use_devices(args.devices)
    print(json.dumps([measure(devices, args.calls) for devices in sorted({1, devices})], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
