"""Reservoir sampling of 10,000 to 1,000,000 clients: seconds, resident memory, and whether all have the same chance.

Every client holds one number, so that only the sampling is measured. Each measurement runs in a process of
its own. Memory is the largest anonymous resident memory that was seen. The same round with `aggregators.sum()` in
place of the sample shows which part is due to the clients themselves: their numbers, ids and plan.

    python benchmarks/reservoir.py --clients 10000,1000000

prints one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import limits
import numpy as np
import scale

SIZES = "10000,100000,1000000"


def measure_one(clients: int, sample_size: int, devices: int, memory_budget: int) -> dict:
    """Times two rounds over all clients in this process, the first of which compiles.

    Args:
      clients: the number of clients that take part.
      sample_size: the largest number of clients in the sample; 0 sums all clients instead of sampling.
      devices: `EngineConfig.devices`.
      memory_budget: `EngineConfig.memory_budget`, bytes of a wave of clients on a device.
    """
    import jax

    import fedjax_core as fc

    key = jax.random.key(0)
    aggregator = fc.aggregators.reservoir_sample(sample_size, key=key) if sample_size else fc.aggregators.sum()
    process = fc.aggregators.as_process(aggregator, "float32")
    config = fc.EngineConfig(lanes=1, devices=devices, memory_budget=memory_budget)
    next_round, state = process.next.with_config(config), process.initialize()
    values, weights = np.arange(clients, dtype=np.float32), np.ones(clients, np.float32)
    times = []
    with scale.PeakMemory() as memory:
        for _ in range(2):
            begin = time.perf_counter()
            state, result, _ = jax.block_until_ready(next_round(state, values, weights))
            times.append(time.perf_counter() - begin)
    return {
        "clients": clients,
        "sample_size": sample_size,
        "devices": devices,
        "memory_budget": memory_budget,
        "first_round_s": times[0],
        "round_s": times[1],
        "sampled": len(set(result[0].tolist())) if sample_size else 0,
        "anonymous_bytes_peak": memory.peak,
    }


def chances(keys: int, clients: int, sample_size: int) -> dict:
    """Tests, by chi-square over many keys, whether each client is in the sample equally often.

    Args:
      keys: the number of samples that are drawn.
      clients: `n`.
      sample_size: `k`; each client is in a sample with probability `k / n`.
    """
    import jax
    import scipy.stats

    import fedjax_core as fc

    process = fc.aggregators.as_process(fc.aggregators.reservoir_sample(sample_size, key=jax.random.key(0)), "int32")
    state, counts, weights = process.initialize(), np.zeros(clients), np.ones(clients, np.float32)
    for seed in range(keys):
        _, (sample, _), _ = process.next(
            {**state, "key": jax.random.key(seed)}, np.arange(clients, dtype="i4"), weights
        )
        counts[np.asarray(sample)] += 1
    share = sample_size / clients
    squares = (counts - keys * share) ** 2 / (keys * share * (1 - share))
    places = {"first": 0, "middle": clients // 2, "last": clients - 1}
    everyone = scipy.stats.chi2.sf(squares.sum() * (clients - 1) / clients, clients - 1)
    p = {"everyone": float(everyone), **{k: float(scipy.stats.chi2.sf(squares[i], 1)) for k, i in places.items()}}
    return {"keys": keys, "clients": clients, "sample_size": sample_size, "p": p}


def in_a_process(**settings) -> dict:
    """`measure_one` in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(settings)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(argv=None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Seconds, memory and fairness of reservoir sampling.")
    parser.add_argument("--clients", default=SIZES, help=f"of a round; default {SIZES}")
    parser.add_argument("--sample-size", type=int, default=100)
    parser.add_argument("--devices", type=int, default=os.cpu_count(), help="CPU devices")
    parser.add_argument("--memory-budget", type=int, default=1_000_000, help="bytes of a wave on a device")
    parser.add_argument("--keys", type=int, default=200, help="of the test whether all clients have the same chance")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one is not None:
        settings = json.loads(args.one)
        limits.use_devices(settings["devices"])
        print(json.dumps(measure_one(**settings)))
        return 0
    common = {"devices": args.devices, "memory_budget": args.memory_budget}
    numbers = [int(number) for number in args.clients.split(",")]
    result = {
        name: [in_a_process(clients=number, sample_size=size, **common) for number in numbers]
        for name, size in (("reservoir", args.sample_size), ("sum", 0))
    }
    print(json.dumps({**result, "chances": chances(args.keys, 100, 10)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
