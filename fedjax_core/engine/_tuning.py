"""The number of lanes by measurement, once per program and kind of device."""

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fedjax_core.engine._cache_folder import cache_folder
from fedjax_core.engine._cohort import ClientSequences, Cohort
from fedjax_core.engine._config import EngineConfig
from fedjax_core.engine._plan import Plan
from fedjax_core.engine._run import Program
from fedjax_core.language._graph import Node

CANDIDATES = (1, 2, 4, 8, 16, 32, 64)
_SAMPLE = 1024  # clients that are measured at most: enough for 64 lanes on 16 shards
_REPEATS = 3
_HOPELESS = 2  # times the fewest seconds so far: such lanes are not measured again
_FILE = "lanes.json"


def tuned_lanes(plan: Plan, config: EngineConfig, server: dict[Node, object], cohort: Cohort) -> int:
    """The fastest number of lanes for a program, remembered in a file of the user's cache folder.

    Args:
      plan: the program.
      config: its devices and memory budget.
      server: the values of its arguments that exist once.
      cohort: its clients; of many, some are measured.
    """
    if not plan.passes or not len(cohort):
        return 1
    cohort = _sample(cohort)

    def program(lanes: int) -> Program:
        return Program(plan, dataclasses.replace(config, lanes=lanes).resolve())

    alone, layout = program(1).lowered(server, cohort), config.resolve()
    kind = f"{layout.devices[0].device_kind} {len(layout.devices)} {jax.__version__} {config.memory_budget}"
    key = hashlib.sha256(f"{kind} {alone.as_text()}".encode()).hexdigest()
    lanes = int(_agreed(_remembered_lanes(key)))
    if not lanes:
        most = int(_agreed(_most_lanes(alone, layout.memory_budget)))
        lanes = fastest(lambda n, least: _seconds(program(n), server, cohort, least), min(most, 2 * len(cohort) - 1))
        _remember(key, lanes)
    return lanes


def _most_lanes(alone: jax.stages.Lowered, budget: int) -> int:
    """How many times what one lane computes with fits the memory budget."""
    analysis = alone.compile().memory_analysis()
    return CANDIDATES[-1] if analysis is None else budget // max(1, analysis.temp_size_in_bytes)


def fastest(seconds, most: int) -> int:
    """The candidate that takes the fewest seconds. All are tried: more lanes may be slower at first, and faster then.

    Args:
      seconds: how long a number of lanes takes, infinite where it does not fit the memory; it is told the fewest
        seconds so far.
      most: no more lanes than that are tried, but one.

    Example:

    >>> fastest(lambda lanes, least: {1: 4.0, 2: 4.7, 4: 5.1, 8: 3.0, 16: 3.5}[lanes], 30)
    8
    """
    best, least = 1, float("inf")
    for lanes in CANDIDATES:
        if lanes > max(1, most):
            break
        taken = seconds(lanes, least)
        if taken < least:
            best, least = lanes, taken
    return best


def _seconds(program: Program, server, cohort: Cohort, least: float) -> float:
    """The shortest of a few runs after the one that compiles; of one run, where that is far from `least`."""
    shortest = float("inf")
    for repeat in range(1 + _REPEATS):
        begin = time.perf_counter()
        try:
            jax.block_until_ready(program(server, cohort))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return float("inf")
        if repeat:
            shortest = _agreed(min(shortest, time.perf_counter() - begin))
        if _HOPELESS * least < shortest < float("inf"):
            break
    return shortest


def _agreed(value: float) -> float:
    """The first process's value, so that all measure and choose the same."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))


def _sample(cohort: Cohort) -> Cohort:
    """The cohort without what was packed of it; of a large one, clients at equal distances."""
    number = len(cohort)
    chosen = np.arange(number) if number <= _SAMPLE else np.linspace(0, number - 1, _SAMPLE).astype(np.int64)
    value = jax.tree.map(lambda x: _Some(x, chosen) if isinstance(x, ClientSequences) else x[chosen], cohort.value)
    ids = tuple(cohort.ids[i] for i in chosen.tolist())
    return Cohort(ids, value, cohort.client_index[chosen], cohort.digests[chosen])


class _Some:
    """Some clients of a `ClientSequences`."""

    def __init__(self, sequences: ClientSequences, chosen: np.ndarray):
        self._sequences = sequences
        self._chosen = chosen
        self.element_type = sequences.element_type
        self.batch_size = sequences.batch_size
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
    """What was measured before, 0 where nothing was, or where the file says anything else."""
    lanes = _remembered().get(key)
    return int(lanes) if lanes in CANDIDATES else 0


def _remember(key: str, lanes: int) -> None:
    """Adds to the file, which is written whole; where there can be none, the next session measures again."""
    with contextlib.suppress(OSError, RuntimeError):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".new", delete=False) as file:
            json.dump(_remembered() | {key: lanes}, file, indent=1)
        os.replace(file.name, folder / _FILE)
