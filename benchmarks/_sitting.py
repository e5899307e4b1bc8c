"""Programs that take turns, each in a process of its own that speaks `peers/_protocol.py`.

`take_turns` starts them, verifies their weights, and then lets them do rounds in turn, so that
other load on the machine affects all of them alike.
"""

import contextlib
import json
import os
import pathlib
import queue
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from typing import NamedTuple

import numpy as np


class Program(NamedTuple):
    """A program that can be started.

    Attributes:
      name: The name in the table.
      command: The command that starts it, without workload and data.
      workloads: The workloads that it can do.
      exact: Whether it computes the same weights as the others. FedJAX as shipped does not: it wraps
        around in a client's last batch.
      own_reference: Whether it verifies itself against a reference of its own, because it cannot do the
        others' rounds. declearn has all clients in every round and weights them by steps.
    """

    name: str
    command: list[str]
    workloads: tuple[str, ...] = ("W1", "W2", "W3", "W4")
    exact: bool = True
    own_reference: bool = False


class ProgramFailed(RuntimeError):
    """A program ended, was silent for too long, or reported an error."""


class Child:
    """A running program.

    Args:
      program: The program to start.
      arguments: The arguments after its command.
      log: The file for its standard error.
      patience: The seconds that an answer may take.
    """

    def __init__(self, program: Program, arguments: list[str], log: pathlib.Path, patience: float = 600):
        self.program, self._log, self._patience = program, log, patience
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [*program.command, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self._answers: queue.Queue = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def answer(self) -> dict:
        """The next answer.

        Raises:
          ProgramFailed: There is none, or it is an error.
        """
        try:
            line = self._answers.get(timeout=self._patience)
        except queue.Empty:
            raise ProgramFailed(f"{self.program.name} was silent for {self._patience:g} s") from None
        if line is None:
            last = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise ProgramFailed(f"{self.program.name} ended: {last or 'it said nothing'}")
        values = json.loads(line)
        if "error" in values:
            raise ProgramFailed(f"{self.program.name}: {values['error']}")
        return values

    def ask(self, line: str) -> dict:
        """The answer to a line.

        Raises:
          ProgramFailed: There is none, or it is an error.
        """
        with contextlib.suppress(BrokenPipeError):  # it has ended; what it said last is its answer
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        return self.answer()

    def stop(self, patience: float = 20):
        """Ends it and all that it has started."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("stop\n")
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(patience)
        self._process.stdout.close()


def relative_difference(found: dict, expected: dict, initial: dict) -> float:
    """The norm of the difference between weights and those expected, over the norm of the change in training."""

    def norm(a, b):
        return np.sqrt(sum(np.square(np.asarray(a[k], np.float64) - b[k]).sum() for k in expected))

    return float(norm(found, expected) / norm(expected, initial))


class Limits(NamedTuple):
    """The limits of a sitting.

    Attributes:
      rounds: Timed rounds of each program.
      warm_up: Untimed rounds of each program, after the two of its verification.
      slow: The seconds per round beyond which a program counts as slow.
      slow_rounds: Timed rounds of a slow program.
    """

    rounds: int = 7
    warm_up: int = 1
    slow: float = 10.0
    slow_rounds: int = 3


def take_turns(programs, workload: str, data: pathlib.Path, task, tolerance: float, limits: Limits, say=print) -> dict:
    """Verifies and times programs in one sitting.

    Args:
      programs: The programs to run. Without a reference, all must agree with the weights of the first one.
      workload: "W1" to "W4".
      data: The folder of the data.
      task: An object with `initial` and `reference`, flat weights; `reference` may be None.
      tolerance: The largest relative difference of an exact program after two rounds.
      limits: The numbers of rounds.
      say: A function that receives progress messages, a line at a time.

    Returns:
      By name: `version`, `difference`, `verified`, `seconds` of each timed round, `median_s`, `memory`; or
      `failed`, the reason why there are none. A program whose weights are wrong is not timed.
    """
    children, results, expected = {}, {}, task.reference
    arguments = ["--workload", workload, "--data", str(data)]
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        try:
            for i, program in enumerate(programs):
                begin = time.monotonic()
                children[program.name] = child = Child(program, arguments, scratch / f"{i}.log")
                try:
                    result, found = _verify(child, scratch / f"{i}.npz", expected, task.initial, tolerance)
                except ProgramFailed as failure:
                    _fail(program.name, failure, children, results, say)
                    continue
                expected, results[program.name] = expected or found, result
                seconds = time.monotonic() - begin
                say(f"{workload} {program.name}: difference {result['difference']:.1e}, ready after {seconds:.0f} s")
            _alternate(children, results, limits, say)
        finally:
            for child in children.values():
                child.stop()
    return results


def _verify(child: Child, file: pathlib.Path, expected: dict | None, initial: dict, tolerance: float):
    """The facts about a program before it is timed, and its weights after two rounds."""
    program, version = child.program, child.answer()["version"]
    error = child.ask(f"check {file}")["difference"]
    with np.load(file) as weights:
        found = dict(weights)
    if not program.own_reference:
        error = relative_difference(found, expected or found, initial)
    verified = bool(error <= tolerance)
    if program.exact and not verified:
        raise ProgramFailed(f"{program.name}: weights differ by {error:.1e}, more than {tolerance:.0e}")
    return {"version": version, "difference": error, "verified": verified}, found


def _fail(name, failure, children, results, say):
    say(str(failure))
    results[name] = {"failed": str(failure)}
    children.pop(name).stop()


def _alternate(children, results, limits, say):
    times = {name: [] for name in children}
    for r in range(limits.warm_up + limits.rounds):
        for name, child in list(children.items()):
            slow = bool(times[name]) and min(times[name]) > limits.slow
            if slow and len(times[name]) >= limits.warm_up + limits.slow_rounds:
                continue
            try:
                times[name].append(child.ask(f"round {2 + r}")["seconds"])
            except ProgramFailed as failure:
                _fail(name, failure, children, results, say)
        say(f"turn {r}: " + ", ".join(f"{name} {times[name][-1]:.3g}" for name in children))
    for name, child in children.items():
        seconds = times[name][limits.warm_up :]
        memory = child.ask("memory")
        results[name] |= {"seconds": seconds, "median_s": statistics.median(seconds), "memory": memory}
