"""Trial rounds, which write nothing: they show whether a run works and what it costs."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fedjax_core.data import Batching, FederatedData
from fedjax_core.engine import Cohort
from fedjax_core.program._early_stopping import Ending
from fedjax_core.program._history import History, Record
from fedjax_core.program._loop import RoundCohort, round_cohort, run_rounds
from fedjax_core.program._outlets import Outlet, Round
from fedjax_core.program._run_start import RunStart
from fedjax_core.templates import LearningProcess

_MOST_SKIPPED = 100


def next_cohort(draw: Callable[[int], RoundCohort], number: int) -> RoundCohort:
    """The clients of the first round from `number` on that has examples.

    Raises:
      ValueError: 100 rounds have no examples, for example because all of them are skipped.
    """
    for later in range(number, number + _MOST_SKIPPED):
        drawn = draw(later)
        # Poisson sampling may draw no client in a round that is not skipped.
        if drawn.cohort is not None and drawn.cohort.value.num_steps.any():
            return drawn
    raise ValueError(
        f"the rounds {number} to {number + _MOST_SKIPPED - 1} are all skipped or have no examples; let more clients "
        "report, or draw more"
    )


def one_batch(cohort: Cohort, data: FederatedData, batching: Batching, key: jax.Array) -> RoundCohort:
    """The first batch of the first client with examples in a round."""
    first = np.flatnonzero(cohort.value.num_steps)[:1]
    ids, extra = [cohort.ids[i] for i in first], {name: values[first] for name, values in cohort.extra.items()}
    return round_cohort(data.cohort(ids, batching, max_steps=1, extra=extra, key=key), {})


def try_rounds(
    process: LearningProcess,
    state: Any,
    draw: Callable[[int], RoundCohort],
    rounds: int,
    outlets: Sequence[Outlet],
    clock: Callable[[], float],
) -> Round:
    """Runs rounds from a state.

    Args:
      process: the process of the run.
      state: the process's state before the first round.
      draw: the `draw` of `run_rounds`.
      rounds: the number of rounds.
      outlets: receive each round.
      clock: returns the time in seconds.

    Returns:
      The last round.
    """
    start = RunStart(state, History(), 0, process.next, {})
    return run_rounds(start, Ending(rounds, None), draw, outlets=outlets, clock=clock)


def typical_seconds(records: Sequence[Record]) -> float | None:
    """The median time of the rounds that ran, without the first one, which compiles; None if no other round ran."""
    seconds = [record.round_seconds for record in records if not record.is_skipped][1:]
    return statistics.median(seconds) if seconds else None
