"""The cost of protection and measurement in a round: the full stack and a plain mean, timed in turn.

The full stack zeroes and clips at estimated quantiles (`robust`), quantizes to 8 bits, clips again and adds noise
(`private_mean`), and every client finalizes eight metrics, for which 100 clients are sampled. Both train the same
model on the same cohorts, data preparation included. It is a stack for timing, not one to copy: the
estimates of `robust` are exact, and therefore not private.

    python benchmarks/stack.py --workloads W1,W2 --rounds 9

prints one JSON object: per workload the medians in seconds, their ratio, and the median ratio of pairs of rounds.
"""

import argparse
import json
import os
import statistics
import sys
import time

import limits
import numpy as np
import workloads
from _machine import machine

FEWEST_ROUNDS = 7
_SAMPLED, _BITS, _MAX_NORM, _NOISE = 100, 8, 10.0, 0.01


def eight_metrics() -> dict:
    """Six metrics of a classifier, which make eight with the loss and the number of examples that every model has."""
    import fedjax_core as fc

    return {
        "accuracy": fc.metrics.accuracy(),
        "top_5_accuracy": fc.metrics.top_k_accuracy(5),
        "precision": fc.metrics.precision("macro"),
        "recall": fc.metrics.recall("macro"),
        "f1": fc.metrics.f1("macro"),
        "num_batches": fc.metrics.num_batches(),
    }


def full_stack(workload: workloads.Workload):
    """Federated averaging of the workload with the full stack, and its initial state."""
    import jax
    import optax

    import fedjax_core as fc

    noise_key, rounding_key, sample_key, key = jax.random.split(jax.random.key(0), 4)
    private = fc.aggregators.private_mean(_MAX_NORM, _NOISE, workloads.CLIENTS[workload.name], key=noise_key)
    process = fc.algorithms.fed_avg(
        workloads.model(workload)._replace(metrics=eight_metrics()),
        optax.sgd(workload.learning_rate),
        aggregator=fc.aggregators.robust(fc.aggregators.quantize(_BITS, private, key=rounding_key)),
        metrics_aggregation=fc.metrics.finalize_then_sample(_SAMPLED, key=sample_key),
        key=key,
    )
    weights = jax.tree.map(jax.numpy.asarray, workload.initial)
    return process, process.set_model_weights(process.initialize(), weights)


class Averaging:
    """Rounds of one process on a workload.

    Args:
      workload: the workload.
      process: the process.
      state: its first state.
      devices: the number of devices.
    """

    def __init__(self, workload: workloads.Workload, process, state, devices: int):
        import fedjax_core as fc

        self.process, self.state, self.metrics = process, state, None
        self._data = workloads.federated_data(workload)
        self._batching = fc.data.Batching(batch_size=workload.batch_size)
        self._next = process.next.with_config(fc.EngineConfig(lanes=1, devices=devices))

    def __call__(self, ids: np.ndarray) -> float:
        """Runs a round and returns its seconds."""
        import jax

        begin = time.perf_counter()
        cohort = self._data.cohort(ids.tolist(), self._batching)
        self.state, self.metrics = jax.block_until_ready(self._next(self.state, cohort))
        return time.perf_counter() - begin

    def losses(self) -> np.ndarray:
        """The training losses of the last round: one for all clients, or one for each that was sampled."""
        train = self.metrics["client_work"]["train"]
        return np.asarray(train.get("current_round_metrics", train)["loss"])


def measure(workload: workloads.Workload, rounds: int, devices: int) -> dict:
    """Runs two untimed rounds of both, then timed ones in turn.

    Raises:
      AssertionError: one of the two did not learn.
    """
    workloads.touch(workload)
    both = {
        "plain": Averaging(workload, *workloads.process(workload), devices),
        "stack": Averaging(workload, *full_stack(workload), devices),
    }
    first = {}
    for ids in workload.cohorts[:2]:
        for name, averaging in both.items():
            averaging(ids)
            first.setdefault(name, averaging.losses().mean())
    seconds = {name: [] for name in both}
    for r in range(rounds):
        ids = workload.cohorts[(2 + r) % len(workload.cohorts)]
        for name in list(both)[:: 1 if r % 2 else -1]:
            seconds[name].append(both[name](ids))
    for name, averaging in both.items():
        check_learned(f"{workload.name}, {name}", first[name], averaging.losses())
    return _summary(seconds) | {"rounds": rounds, "clients_sampled": len(both["stack"].losses())}


def check_learned(name: str, first: float, last: np.ndarray):
    """Checks that the mean loss fell.

    Raises:
      AssertionError: it did not.
    """
    if not last.mean() < first:
        raise AssertionError(f"{name}: the loss went from {first:.4f} to {last.mean():.4f}")


def _summary(seconds: dict) -> dict:
    medians = {f"{name}_s": statistics.median(values) for name, values in seconds.items()}
    pairs = np.divide(seconds["stack"], seconds["plain"])
    return medians | {
        **{f"{name}_best_s": min(values) for name, values in seconds.items()},
        "ratio": medians["stack_s"] / medians["plain_s"],
        "ratio_of_pairs_median": float(np.median(pairs)),
    }


def main(argv=None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="The full stack over a plain mean.")
    workloads.add_data_option(parser)
    parser.add_argument("--workloads", default="W1,W2", help="with commas between")
    parser.add_argument("--rounds", type=int, default=9, help=f"timed rounds of each, at least {FEWEST_ROUNDS}")
    parser.add_argument("--devices", type=int, default=os.cpu_count(), help="CPU devices")
    args = parser.parse_args(argv)
    if args.rounds < FEWEST_ROUNDS:
        parser.error(f"--rounds is at least {FEWEST_ROUNDS}, got {args.rounds}")
    devices = limits.use_devices(args.devices)
    data, result = workloads.folder(args.data), {"machine": machine(), "devices": devices}
    for name in args.workloads.split(","):
        result[name] = measure(workloads.load(name, data), args.rounds, devices)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
