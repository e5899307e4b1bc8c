"""The protocol of every program that the report times: one line in, one line of JSON out.

A program is started as `PYTHON NAME_round.py --workload W1 --data FOLDER --variant VARIANT`. It loads the
workload, reports that it is ready, and then obeys lines on standard input, so that a report can let several
programs take turns round by round in one sitting:

- `check FILE`: two unshuffled rounds from the initial weights on cohorts 0 and 1. The weights are
  written to FILE (`.npz`); the answer's `difference` is the largest one from the NumPy float64
  reference, or null if there is none for this workload.
- `round K`: one round on cohort K from the weights reached so far; answers `seconds`.
- `memory`: answers `peak_gb` of this process and `tree_gb`, the memory that it and its children hold now.
- `stop`: ends the program.

The file needs only the standard library and NumPy, and works on Python 3.10, which the oldest peer needs.
"""

import argparse
import collections
import json
import os
import pathlib
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import workloads

CHECK_ROUNDS = 2


class Task(NamedTuple):
    """A workload as the peers use it.

    Attributes:
      workload: The data; `x` is memory-mapped.
      initial: Initial weights by flat name, such as `"dense1/kernel"`, in JAX's layout (features in,
        features out; HWIO).
      reference: W1's weights after two unshuffled rounds, by the same names; None for other workloads.
    """

    workload: workloads.Workload
    initial: dict
    reference: dict | None

    @property
    def name(self) -> str:
        """`"W1"` to `"W4"`."""
        return self.workload.name

    def cohort(self, k: int) -> np.ndarray:
        """The client numbers of round `k`; the fixed cohorts are used again when they run out."""
        return self.workload.cohorts[k % len(self.workload.cohorts)]

    def client(self, c: int) -> tuple[np.ndarray, np.ndarray]:
        """Features and labels of client `c`, as views."""
        rows = slice(self.workload.offsets[c], self.workload.offsets[c + 1])
        return self.workload.arrays["x"][rows], self.workload.arrays["y"][rows]


def load(name: str, data: pathlib.Path) -> Task:
    """Opens a workload and touches every page of its data; makes the data if there are none."""
    workload = workloads.load(name, data)
    workloads.touch(workload)
    return Task(workload, flat(workload.initial), workloads.load_reference(data) if name == "W1" else None)


def flat(weights: dict, prefix: str = "") -> dict:
    """A nested dictionary of arrays as one with names such as `"dense1/kernel"`."""
    found = {}
    for name, value in weights.items():
        found |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: np.asarray(value)}
    return found


class Peer(NamedTuple):
    """A framework as three functions.

    Attributes:
      version: The framework and the versions that matter.
      start: `() -> state` with the initial weights.
      round: `(state, k) -> state` after a whole round on cohort `k`, data preparation included; returns
        when the weights are ready.
      weights: `state -> dict` of NumPy arrays, named and laid out as `Task.initial`.
    """

    version: str
    start: Callable[[], Any]
    round: Callable[[Any, int], Any]
    weights: Callable[[Any], dict]


class Order(NamedTuple):
    """The next round of a framework with a loop of its own, from the initial weights or from its own weights."""

    k: int
    from_initial: bool


class Turnstile:
    """Lets a framework that owns its loop do one round at a time.

    The framework's callback between two rounds calls `wait` for its next order, and `done` with the new
    weights after it; `as_peer` returns the other side, which runs in a thread of its own.
    """

    def __init__(self):
        self._orders, self._results = queue.Queue(), queue.Queue()

    def wait(self) -> Order | None:
        """The next order, as soon as there is one, or None when the program should stop."""
        return self._orders.get()

    def done(self, weights: Callable[[], dict]) -> None:
        """Reports that the round is over; `weights()` returns its weights if they are requested before the next one."""
        self._results.put(weights)

    def stop(self) -> None:
        """Makes the framework's next `wait` return None."""
        self._orders.put(None)

    def as_peer(self, version: str) -> Peer:
        """The framework as a `Peer` whose state is a function that returns the weights."""

        def round_(state, k):
            self._orders.put(Order(k, from_initial=state is None))
            return self._results.get()

        return Peer(version, start=lambda: None, round=round_, weights=lambda state: state())


class Session(NamedTuple):
    """One started program: its task and variant, and the stream for its answers."""

    task: Task
    variant: str
    data: pathlib.Path
    answers: Any

    def answer(self, **values) -> None:
        """Writes one line."""
        self.answers.write(json.dumps(values) + "\n")
        self.answers.flush()

    def serve(self, peer: Peer, lines=None) -> None:
        """Reports that the peer is ready, and obeys lines until `stop` or their end."""
        self.answer(ready=True, version=peer.version, variant=self.variant, workload=self.task.name)
        state = None
        for line in sys.stdin if lines is None else lines:
            command, *rest = line.split(maxsplit=1)
            if command == "stop":
                break
            if command == "check":
                state = peer.start()
                for k in range(CHECK_ROUNDS):
                    state = peer.round(state, k)
                found = {name: np.asarray(value) for name, value in peer.weights(state).items()}
                np.savez(rest[0].strip(), **found)
                reference = self.task.reference
                self.answer(difference=largest_difference(found, reference) if reference else None)
            elif command == "round":
                state = peer.start() if state is None else state
                begin = time.perf_counter()
                state = peer.round(state, int(rest[0]))
                self.answer(seconds=time.perf_counter() - begin)
            elif command == "memory":
                self.answer(**memory())
            else:
                self.answer(error=f"unknown command {command!r}; there are check FILE, round K, memory and stop")

    def serve_beside(self, turnstile: Turnstile, version: str) -> None:
        """Serves in a thread while the framework has the main one; lets the framework end when the lines end."""

        def serve():
            try:
                self.serve(turnstile.as_peer(version))
            finally:
                turnstile.stop()

        threading.Thread(target=serve, daemon=True).start()


def every_client_once(cohort, replied) -> None:
    """Checks which clients took part in a round, for frameworks that average over the replies that arrive.

    Raises:
      ValueError: A client of the cohort is missing, a client is not in the cohort, or one came twice.
    """
    expected, found = collections.Counter(cohort), collections.Counter(replied)
    missing, surplus = expected - found, found - expected
    if missing or surplus:
        raise ValueError(
            f"a round has each of its {len(cohort)} clients once, but {missing.total()} of them are missing"
            f" and {surplus.total()} replies are too many; the first are {[*missing, *surplus][:5]}"
        )


def largest_difference(found, expected) -> float:
    """The largest absolute difference between two dictionaries of arrays with the same names."""
    if set(found) != set(expected):
        raise ValueError(f"weights are named {sorted(found)}, not {sorted(expected)}")
    return max(float(np.abs(np.asarray(found[k], np.float64) - expected[k]).max()) for k in expected)


def begin(description: str, variants: tuple[str, ...], names: tuple[str, ...] = workloads.NAMES) -> Session:
    """Reads the command line, loads the workload and reserves standard output for the answers.

    Call it before importing a framework: what that prints goes to standard error.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--workload", choices=names, default=names[0])
    parser.add_argument("--variant", choices=variants, default=variants[0])
    workloads.add_data_option(parser)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    data = workloads.folder(args.data).resolve()
    return Session(load(args.workload, data), args.variant, data, answers)


def memory() -> dict:
    """Peak resident GB of this process, and the proportional GB that it and all its descendants hold now."""
    peak = _kilobytes(pathlib.Path("/proc/self/status"), "VmHWM:")
    tree = sum(_kilobytes(pathlib.Path(f"/proc/{pid}/smaps_rollup"), "Pss:") for pid in _tree(os.getpid()))
    return {"peak_gb": peak / 2**20, "tree_gb": tree / 2**20}


def _kilobytes(file: pathlib.Path, field: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:  # the process has ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found
