"""The cost of the training loop beyond the rounds themselves, and whether its memory grows.

The loop checkpoints every 10 rounds, also keeps the best checkpoint, and releases every round to CSV, JSON lines,
TensorBoard, a log, memory, and trackers in the manner of Weights & Biases and MLflow, which keep nothing here. It is
timed in turn with bare calls of `next` on cohorts that are drawn in the same way, a hundred rounds of each at a time;
the last of the ten checkpoints is completely written before the bare calls begin. The loop prefetches the next cohort,
which a bare call does not, so it is also compared with bare calls that prefetch.

    python benchmarks/loop.py --workload W1 --chunks 6 --memory-rounds 2000

prints one JSON object: the seconds per round of each, and the loop's ratio to both kinds of bare calls, by the clock
and by the processor; and, without bare calls in between, the anonymous resident memory in MB after every twentieth of
the rounds.
"""

import argparse
import contextlib
import json
import logging
import os
import pathlib
import statistics
import sys
import tempfile
import time

import limits
import scale
import workloads
from _machine import machine

EVERY = 10
"""Rounds from one checkpoint to the next."""

CHUNK = 100
"""The number of rounds that are timed at a time."""

_OTHER_COHORTS = 1_000_000  # bare calls draw other cohorts than the loop, so neither has read or compiled for the other


class _Tracker:
    """A tracker with the functions of wandb and mlflow that keeps nothing."""

    def log(self, values, step):
        pass

    log_metrics = log


class Loop:
    """Training of a workload with checkpoints and all releases.

    Args:
      workload: the workload.
      devices: the number of devices.
      folder: the folder to which the run writes.
    """

    def __init__(self, workload: workloads.Workload, devices: int, folder: pathlib.Path):
        import jax

        import fedjax_core as fc

        process, _ = workloads.process(workload)
        self._process = process.with_config(fc.EngineConfig(lanes=1, devices=devices))
        self._state = process.initialize()
        self._data = workloads.federated_data(workload)
        self._batching = fc.data.Batching(batch_size=workload.batch_size)
        self._cohort_size = len(workload.cohorts[0])
        self._key = jax.random.key(0)
        self._folder = folder
        self._bare_rounds = _OTHER_COHORTS

    def run(self, rounds: int, on_round):
        """Trains for this number of rounds and calls `on_round(Round)` after each."""
        import fedjax_core as fc

        checkpoints = fc.program.Checkpoints(
            self._folder / "checkpoints", every=EVERY, best_metric="client_work/train/loss"
        )

        def wait_and_tell(round):
            if round.number % CHUNK == 0:
                checkpoints.wait()
            on_round(round)

        with _log_file(self._folder / "log") as log, contextlib.closing(_all_releases(self._folder, log)) as releases:
            fc.program.Run(
                self._process,
                self._data,
                sampler=self._cohort_size,
                batching=self._batching,
                rounds=rounds,
                folder=self._folder / "run",
                checkpoints=checkpoints,
                releases=releases,
                on_round=wait_and_tell,
                progress=False,
                key=self._key,
            ).train()

    def bare(self, rounds: int):
        """Calls `next` this number of times, one call after another."""
        import jax

        for _ in range(rounds):
            self._state, _ = jax.block_until_ready(self._process.next(self._state, self._draw()))

    def prefetching(self, rounds: int):
        """Calls `next` this number of times, and reads the next cohort while one computes."""
        import jax

        cohort = self._draw()
        for i in range(rounds):
            self._state, metrics = self._process.next(self._state, cohort)
            if i + 1 < rounds:
                self._process.next.prefetch(cohort := self._draw())
            jax.block_until_ready((self._state, metrics))

    def _draw(self):
        import jax

        import fedjax_core as fc

        self._bare_rounds += 1
        clients = fc.data.sample_clients(self._bare_rounds, self._data.client_ids, self._cohort_size, key=self._key)
        return self._data.cohort(clients, self._batching, key=jax.random.fold_in(self._key, self._bare_rounds))


def _all_releases(folder: pathlib.Path, log: logging.Logger):
    from fedjax_core import program

    return program.group_releases(
        program.release_to_csv(folder / "releases.csv"),
        program.release_to_json_lines(folder / "releases.jsonl"),
        program.release_to_tensorboard(folder / "tensorboard"),
        program.release_to_log(log),
        program.release_to_memory({}),
        program.release_to_wandb(_Tracker()),
        program.release_to_mlflow(_Tracker()),
    )


@contextlib.contextmanager
def _log_file(path: pathlib.Path):
    log = logging.getLogger("benchmarks.loop")
    handler = logging.FileHandler(path)
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    log.propagate = False
    try:
        yield log
    finally:
        log.removeHandler(handler)
        handler.close()


def measure_time(workload: workloads.Workload, devices: int, chunks: int) -> dict:
    """Times chunks of the loop and of both kinds of bare calls in turn, after an untimed chunk of each."""
    seconds = {"loop": [], "bare": [], "prefetching": []}
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(workload, devices, pathlib.Path(folder))
        begin = _now()

        def on_round(round):
            nonlocal begin
            if round.number % CHUNK:
                return
            turn = {"loop": _since(begin)}
            for name in ("bare", "prefetching"):
                begin = _now()
                getattr(loop, name)(CHUNK)
                turn[name] = _since(begin)
            if round.number > CHUNK:
                for name, both in turn.items():
                    seconds[name].append(both)
            begin = _now()

        loop.run((chunks + 1) * CHUNK, on_round)
    return {kind: _summary(seconds, i) for i, kind in enumerate(("clock", "processor"))} | {"rounds": chunks * CHUNK}


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(begin: tuple[float, float]) -> list[float]:
    return [b - a for a, b in zip(begin, _now())]


def _summary(seconds: dict, kind: int) -> dict:
    rounds = {name: [chunk[kind] / CHUNK for chunk in chunks] for name, chunks in seconds.items()}
    summary = {f"{name}_s": statistics.median(values) for name, values in rounds.items()}
    for name in ("bare", "prefetching"):
        pairs = [loop / other for loop, other in zip(rounds["loop"], rounds[name])]
        ratio = summary["loop_s"] / summary[f"{name}_s"]
        summary[f"loop_over_{name}"] = {"ratio": ratio, "ratio_of_pairs_median": statistics.median(pairs)}
    return summary


def measure_memory(workload: workloads.Workload, devices: int, rounds: int) -> dict:
    """The memory in MB after every twentieth of the rounds, each the median over the ten rounds that end there."""
    held = []
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(workload, devices, pathlib.Path(folder))
        loop.run(rounds, lambda round: held.append(scale.anonymous_memory() / 1e6))
    ends = [rounds * i // 20 for i in range(1, 21)]
    memory = {str(end): round(statistics.median(held[max(0, end - 10) : end]), 1) for end in ends}
    return {"megabytes": memory, "growth": memory[str(rounds)] / memory[str(ends[0])] - 1}


def main(argv=None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="The training loop over bare rounds.")
    workloads.add_data_option(parser)
    parser.add_argument("--workload", default="W1")
    parser.add_argument("--chunks", type=int, default=6, help=f"of {CHUNK} timed rounds each; 0 for none")
    parser.add_argument("--memory-rounds", type=int, default=0, help="rounds to watch the memory in; 0 for none")
    parser.add_argument("--devices", type=int, default=os.cpu_count(), help="CPU devices")
    args = parser.parse_args(argv)
    if args.chunks < 0 or args.memory_rounds < 0 or 0 < args.memory_rounds < 20:
        parser.error("--chunks is 0 or more, and --memory-rounds 0 or at least 20")
    devices = limits.use_devices(args.devices)
    workload = workloads.load(args.workload, workloads.folder(args.data))
    workloads.touch(workload)
    result = {"machine": machine(), "devices": devices, "workload": args.workload}
    if args.chunks:
        result["time"] = measure_time(workload, devices, args.chunks)
    if args.memory_rounds:
        result["memory"] = measure_memory(workload, devices, args.memory_rounds)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
