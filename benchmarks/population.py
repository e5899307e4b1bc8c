"""W7: the cost of a population of ten million clients with two examples each, before anything is trained.

Each step is measured in seconds (of the clock and of the processor) and in the anonymous memory that it adds,
afterwards and at its peak. The steps are making the data, drawing a thousand clients, making their cohort, splitting
clients and examples, and drawing from a split. The store of the examples is the smallest possible: it computes them.

    python benchmarks/population.py --clients 10000000

prints one JSON object. With `--before FILE`, an earlier output, it adds the ratios to that one. The same script also
measures a checkout from before the names were changed, with that `fedjax_core` on PYTHONPATH.
"""

import argparse
import inspect
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from _machine import machine
from scale import PeakMemory, anonymous_memory

REPETITIONS = 15


class TwoExamples:
    """An `ExampleSource` of `number` clients, each of which holds its number twice."""

    def __init__(self, number: int):
        import jax

        self.sizes = np.full(number, 2)
        self.element = {"x": jax.ShapeDtypeStruct((), np.float32)}

    def examples(self, client: int) -> dict:
        """The examples of one client."""
        return {"x": np.full(2, client, np.float32)}

    def read(self, clients: np.ndarray, out: dict) -> None:
        """Copies the examples of `clients`, one after another."""
        out["x"][:] = np.repeat(clients, 2)


def by_keyword(function: Callable, *args, key):
    """Calls a function with its key, which is a keyword or, in an older version, a positional argument."""
    parameters = inspect.signature(function).parameters
    if parameters["key"].kind is inspect.Parameter.KEYWORD_ONLY:
        return function(*args, key=key)
    return function(key, *args) if next(iter(parameters)) == "key" else function(*args, key)


def timed(work: Callable, repetitions: int = 1) -> tuple[object, dict]:
    """The result of `work` and its cost: medians of seconds, and bytes of memory."""
    before, times = anonymous_memory(), []
    with PeakMemory() as memory:
        for _ in range(repetitions):
            begin = time.perf_counter(), time.process_time()
            result = work()
            times.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    wall, processor = (statistics.median(column) for column in zip(*times))
    return result, {
        "wall_s": wall,
        "processor_s": processor,
        "held_bytes": anonymous_memory() - before,
        "peak_bytes": memory.peak - before,
    }


def measure(number: int, kind: str) -> dict:
    """The costs of all steps.

    Args:
      number: the number of clients.
      kind: the kind of ids: "range", "integers" (an array in random order) or "strings" (an array of fixed width).
    """
    import jax

    from fedjax_core import data as fd

    source, key = TwoExamples(number), jax.random.key(0)
    jax.random.key_data(jax.random.fold_in(key, 1))
    ids = {
        "range": lambda: range(number),
        "integers": lambda: np.random.default_rng(0).permutation(number),
        "strings": lambda: np.char.add("client_", np.arange(number).astype(str)),
    }[kind]()
    batching, rounds = fd.Batching(batch_size=2, shuffle=True), iter(range(10**6))
    costs = {}
    data, costs["construct"] = timed(lambda: fd.FederatedData(ids, source))

    def draw(population):
        return lambda: by_keyword(fd.sample_clients, next(rounds), population.client_ids, 1000, key=key)

    def cohort(population, clients):
        return lambda: population.cohort(clients, batching, key=key).identity

    weighted, costs["weighted_construct"] = timed(
        lambda: fd.weighted_sampler(data.client_ids, data.sizes, 1000, key=key)
    )
    poisson, costs["poisson_construct"] = timed(lambda: fd.poisson_sampler(data.client_ids, 1000 / number, key=key))
    cyclic, costs["cyclic_construct"] = timed(lambda: fd.cyclic_sampler(data.client_ids, 1000, key=key, first_round=0))
    clients, costs["first_draw"] = timed(draw(data))
    clients, costs["draw"] = timed(draw(data), REPETITIONS)
    for name, sampler in (("weighted", weighted), ("poisson", poisson), ("cyclic", cyclic)):
        _, costs[f"{name}_draw"] = timed(lambda sampler=sampler: sampler(next(rounds)), REPETITIONS)
    _, costs["first_cohort"] = timed(cohort(data, clients))
    _, costs["cohort"] = timed(cohort(data, clients), REPETITIONS)
    _, costs["cohort_of_a_list"] = timed(cohort(data, list(clients)), REPETITIONS)
    (train, _), costs["split_clients"] = timed(lambda: by_keyword(data.split_clients, 0.8, key=key))
    clients, costs["draw_of_split_clients"] = timed(draw(train), REPETITIONS)
    _, costs["cohort_of_split_clients"] = timed(cohort(train, clients), REPETITIONS)
    (half, _), costs["split_examples"] = timed(lambda: by_keyword(data.split_examples, 0.5, key=key))
    clients, costs["draw_of_split_examples"] = timed(draw(half), REPETITIONS)
    _, costs["cohort_of_split_examples"] = timed(cohort(half, clients), REPETITIONS)
    return costs


def ratios(before: dict, after: dict) -> dict:
    """The ratio of processor seconds before to processor seconds after, by step."""
    return {
        step: before[step]["processor_s"] / max(after[step]["processor_s"], 1e-9) for step in after if step in before
    }


def main(argv=None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="What a population of many clients costs.")
    parser.add_argument("--clients", type=int, default=10**7)
    parser.add_argument("--ids", choices=("range", "integers", "strings"), default="range")
    parser.add_argument("--before", type=pathlib.Path, help="an earlier output, for the ratios to it")
    args = parser.parse_args(argv)
    result = {"machine": machine(), "clients": args.clients, "ids": args.ids}
    result["costs"] = measure(args.clients, args.ids)
    if args.before is not None:
        result["before"] = json.loads(args.before.read_text())["costs"]
        result["ratio_processor_s"] = ratios(result["before"], result["costs"])
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
