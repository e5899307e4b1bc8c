"""Tuning: the number of lanes, measured once per program and kind of device."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fedjax_core.engine._cache import cache_folder
from fedjax_core.engine._cohort import ClientSequences, Cohort
from fedjax_core.engine._config import EngineConfig
from fedjax_core.engine._execution import accumulator_bytes
from fedjax_core.engine._plan import Plan
from fedjax_core.engine._run import Program
from fedjax_core.language.graph import Node

CANDIDATES = (1, 2, 4, 8, 16, 32, 64)
_SAMPLE = 1024  # the most clients that are measured: enough for 64 lanes on 16 shards
_WORSE = (2.0, 1.5, 1.3, 1.2, 1.15)  # per turn: the multiple of the fewest seconds beyond which a candidate drops out
_FILE = "lanes.json"


def tuned_lanes(plan: Plan, config: EngineConfig, server: dict[Node, object], cohort: Cohort | None) -> int:
    """The fastest number of lanes for a program, remembered in a file of the user's cache folder.

    Args:
      plan: the program.
      config: its devices and memory budget.
      server: the values of its arguments that exist once.
      cohort: its clients, a sample of which is measured if there are many; None where the program has no passes.
    """
    if not plan.passes or cohort is None or not len(cohort):
        return 1

    accumulated = accumulator_bytes(plan)

    @functools.cache
    def program(lanes: int) -> Program:
        program = Program(plan, dataclasses.replace(config, lanes=lanes).resolve(accumulated))
        _seconds(program, server, cohort)  # compiles
        return program

    layout = dataclasses.replace(config, lanes=1).resolve(accumulated)
    alone = Program(plan, layout).lowered(server, _sample(cohort))
    kind = f"{layout.devices[0].device_kind} {len(layout.devices)} {jax.__version__} {config.memory_budget}"
    key = hashlib.sha256(f"{kind} {alone.as_text()}".encode()).hexdigest()
    lanes = int(_agreed(_remembered_lanes(key)))
    if not lanes:
        most = int(_agreed(_most_lanes(alone, layout.memory_budget)))
        fit = [n for n in CANDIDATES if n == 1 or (n <= most and n < 2 * len(cohort))]
        lanes = fastest(lambda n: _agreed(_seconds(program(n), server, cohort)), fit)
        _remember(key, lanes)
    return lanes


def _most_lanes(alone: jax.stages.Lowered, budget: int) -> int:
    """How many times the temporary memory of one lane fits the memory budget."""
    analysis = alone.compile().memory_analysis()
    return CANDIDATES[-1] if analysis is None else budget // max(1, analysis.temp_size_in_bytes)


def fastest(seconds: Callable[[int], float], candidates: Sequence[int]) -> int:
    """The candidate that takes the fewest seconds.

    The candidates take turns, so that other load on the machine affects all alike, and after each turn those that are
    clearly slower drop out. Every one is measured: more lanes may be slower at first and faster beyond.

    Args:
      seconds: how long a number of lanes takes this time; infinite where it does not fit into memory.
      candidates: numbers of lanes, at least one.

    Example:

    >>> fastest({1: 4.0, 2: 4.7, 4: 5.1, 8: 3.0, 16: 3.5}.__getitem__, [1, 2, 4, 8, 16])
    8
    """
    least = dict.fromkeys(candidates, float("inf"))
    for worse in _WORSE:
        for lanes in candidates:
            least[lanes] = min(least[lanes], seconds(lanes))
        candidates = [lanes for lanes in candidates if least[lanes] <= worse * min(least.values())]
        if len(candidates) == 1:
            break
    return min(least, key=least.__getitem__)


def _seconds(program: Program, server, cohort: Cohort) -> float:
    """The seconds of one run, including reading the clients; infinite if memory runs out.

    The sample is packed anew, so that only what this run packs is in memory.
    """
    begin = time.perf_counter()
    try:
        jax.block_until_ready(program(server, _sample(cohort)))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return float("inf")
    return time.perf_counter() - begin


def _agreed(value: float) -> float:
    """The first process's value, so that all processes measure and choose the same."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))


def _sample(cohort: Cohort) -> Cohort:
    """The cohort with nothing packed; of a large one, only some clients, at equal distances."""
    number = len(cohort)
    chosen = np.arange(number) if number <= _SAMPLE else np.linspace(0, number - 1, _SAMPLE).astype(np.int64)
    value = jax.tree.map(lambda x: _Some(x, chosen) if isinstance(x, ClientSequences) else x[chosen], cohort.value)
    ids = tuple(cohort.ids[i] for i in chosen.tolist())
    extra = {name: array[chosen] for name, array in cohort.extra.items()}
    return dataclasses.replace(
        cohort,
        ids=ids,
        value=value,
        client_index=cohort.client_index[chosen],
        digests=cohort.digests[chosen],
        extra=extra,
    )


class _Some:
    """Some clients of a `ClientSequences`."""

    def __init__(self, sequences: ClientSequences, chosen: np.ndarray):
        self._sequences = sequences
        self._chosen = chosen
        self.is_thread_safe = getattr(sequences, "is_thread_safe", False)
        self.element_type = sequences.element_type
        self.batch_size = sequences.batch_size
        self.width = sequences.width
        self.num_examples = sequences.num_examples[chosen]
        self.num_steps = sequences.num_steps[chosen]

    def batch_rows(self, clients: np.ndarray) -> np.ndarray:
        """See `ClientSequences.batch_rows`."""
        return self._sequences.batch_rows(self._chosen[clients])

    def read(self, clients: np.ndarray, out: Any) -> None:
        """See `ClientSequences.read`."""
        self._sequences.read(self._chosen[clients], out)


def _remembered() -> dict:
    try:
        known = json.loads((cache_folder() / _FILE).read_text())
    except (OSError, RuntimeError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remembered_lanes(key: str) -> int:
    """The number of lanes that was measured before, or 0 if the file does not hold a valid one."""
    lanes = _remembered().get(key)
    return int(lanes) if lanes in CANDIDATES else 0


def _remember(key: str, lanes: int) -> None:
    """Adds a number to the file, which is replaced as a whole; if that fails, the next session measures again."""
    with contextlib.suppress(OSError, RuntimeError):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".new", delete=False) as file:
            json.dump(_remembered() | {key: lanes}, file, indent=1)
        os.replace(file.name, folder / _FILE)
