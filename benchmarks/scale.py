"""A round of W1's model over 10 to 1,000,000 clients, over devices and over lanes: seconds and resident memory.

The clients are virtual: client `i` holds the examples of W1's stored client `i % 3400`, so a million of
them take no more disk space than W1. Each measurement runs in a process of its own. Memory is the largest anonymous
resident memory that was seen, which excludes the memory-mapped examples themselves.

    python benchmarks/scale.py --clients 10,1000,100000 --memory-budget 500000000

prints one JSON object. A million clients take about a thousand times as long as W4's thousand.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import threading
import time

import limits
import numpy as np
import workloads
from _machine import machine

SWEEPS = ("clients", "devices", "lanes")
LANES = (1, 2, 4, 8, 16, 32, 64, "auto")


class VirtualClients:
    """An `ExampleSource` of any number of clients, which share the examples of the stored ones.

    Args:
      workload: the `N` stored clients.
      number: the number of clients; client `i` holds the examples of the stored client `i % N`.
    """

    def __init__(self, workload: workloads.Workload, number: int):
        import jax

        self._workload = workload
        self.sizes = np.resize(workload.sizes, number)
        self.element = {k: jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for k, a in workload.arrays.items()}

    def examples(self, client: int) -> dict:
        """The examples of one client."""
        return {name: array[self._rows(client)] for name, array in self._workload.arrays.items()}

    def read(self, clients: np.ndarray, out: dict) -> None:
        """Copies the examples of `clients`, one after another."""
        end = 0
        for client in clients.tolist():
            rows = self._rows(client)
            begin, end = end, end + rows.stop - rows.start
            for name, array in self._workload.arrays.items():
                out[name][begin:end] = array[rows]

    def _rows(self, client: int) -> slice:
        stored = client % len(self._workload.sizes)
        return slice(int(self._workload.offsets[stored]), int(self._workload.offsets[stored + 1]))


class PeakMemory:
    """Watches this process's anonymous resident memory from a thread while the context lasts.

    Attributes:
      peak: the largest that was seen, in bytes; 0 if the system does not report it.
    """

    def __init__(self, seconds: float = 0.02):
        self.peak = 0
        self._seconds = seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, anonymous_memory())

    def _watch(self):
        while not self._done.wait(self._seconds):
            self.peak = max(self.peak, anonymous_memory())


def anonymous_memory() -> int:
    """The bytes of this process's resident memory that belong to no file; 0 if the system does not report them."""
    try:
        found = re.search(r"^RssAnon:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def measure_one(
    data: pathlib.Path,
    clients: int,
    devices: int,
    lanes: int | str,
    rounds: int,
    seconds: float,
    memory_budget: int | None,
) -> dict:
    """Times rounds of all `clients` virtual clients in this process.

    Args:
      data: the folder of the data.
      clients: the number of clients that take part.
      devices: `EngineConfig.devices`.
      lanes: `EngineConfig.lanes`.
      rounds: the largest number of timed rounds after the first.
      seconds: the seconds from the start of the first round (from its end with `lanes="auto"`) after which no round
        begins.
      memory_budget: `EngineConfig.memory_budget`; None for its default.
    """
    import jax

    import fedjax_core as fc

    workload = workloads.load("W1", data)
    budget = {} if memory_budget is None else {"memory_budget": memory_budget}
    population = fc.data.FederatedData(range(clients), VirtualClients(workload, clients))
    process, state = workloads.process(workload)
    next_round = process.next.with_config(fc.EngineConfig(lanes=lanes, devices=devices, **budget))
    batching = fc.data.Batching(batch_size=workload.batch_size)
    before, times = anonymous_memory(), []
    with PeakMemory() as memory:
        start = time.perf_counter()
        while not times or (len(times) <= rounds and time.perf_counter() - start < seconds):
            begin = time.perf_counter()
            state = jax.block_until_ready(next_round(state, population.cohort(population.client_ids, batching)).state)
            times.append(time.perf_counter() - begin)
            if lanes == "auto" and len(times) == 1:
                start = time.perf_counter()  # the first one has tried all numbers of lanes
    later = times[1:] or times
    return {
        "clients": clients,
        "devices": devices,
        "lanes": lanes,
        "lanes_used": next_round.config.lanes,
        "memory_budget": memory_budget,
        "median_s": statistics.median(later),
        "rounds": len(later),
        "compilation_included": len(times) == 1,
        "first_round_s": times[0],
        "examples": int(population.sizes.sum()),
        "anonymous_bytes_before": before,
        "anonymous_bytes_peak": memory.peak,
    }


def in_a_process(**settings) -> dict:
    """`measure_one` in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(settings)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def settings_of(sweep: str, args: argparse.Namespace) -> list[dict]:
    """The settings of each measurement in a sweep: `clients`, `devices` and `lanes`."""
    if sweep == "clients":
        return [{"clients": n, "devices": args.devices, "lanes": 1} for n in args.clients]
    if sweep == "devices":
        return [{"clients": args.fixed_clients, "devices": d, "lanes": 1} for d in range(1, args.devices + 1)]
    return [{"clients": args.fixed_clients, "devices": args.devices, "lanes": n} for n in LANES]


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main(argv=None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Seconds and memory of a round, over clients, devices and lanes.")
    workloads.add_data_option(parser)
    parser.add_argument("--sweeps", default=",".join(SWEEPS), help="of clients,devices,lanes")
    sizes = "10,100,1000,10000,100000,1000000"
    parser.add_argument("--clients", type=_numbers, default=_numbers(sizes), help=f"of a round; default {sizes}")
    parser.add_argument("--fixed-clients", type=int, default=1000, help="in the other sweeps")
    parser.add_argument("--devices", type=int, default=os.cpu_count(), help="CPU devices")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after the first, at most")
    parser.add_argument("--seconds", type=float, default=30, help="no round begins later than this")
    parser.add_argument("--memory-budget", type=int, help="bytes of a device; default: the engine's")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one is not None:
        settings = json.loads(args.one)
        limits.use_devices(settings["devices"])
        print(json.dumps(measure_one(pathlib.Path(settings.pop("data")), **settings)))
        return 0
    data, result = workloads.folder(args.data), {"machine": machine()}
    workloads.load("W1", data)
    common = {"rounds": args.rounds, "seconds": args.seconds, "memory_budget": args.memory_budget}
    for sweep in args.sweeps.split(","):
        result[sweep] = [in_a_process(data=str(data), **one, **common) for one in settings_of(sweep, args)]
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
