"""The loop of rounds that `Run` runs."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_core._own_errors import noted
from fedjax_core.algorithms import left_out_clients
from fedjax_core.computations import Computation
from fedjax_core.data import Batching, FederatedData, Participation
from fedjax_core.engine import Cohort
from fedjax_core.program._early_stopping import Ending
from fedjax_core.program._history import Record, flatten_metrics, on_host
from fedjax_core.program._outlets import Outlet, Round
from fedjax_core.program._retrying import NEVER, Retrying, retries_so_far
from fedjax_core.program._run_start import RunStart
from fedjax_core.templates import LearningProcessOutput


class RoundCohort(NamedTuple):
    """The clients of a round.

    Attributes:
      cohort: the cohort that `process.next` takes; None if the round is skipped.
      size: the number of clients.
      metrics: the counts of participation, if the sampler returns a `Participation`.
      ids: the ids of the clients, kept here because the cohort is released before they may be needed.
      client_index: the clients' rows in the population, by which a process reports them.
    """

    cohort: Any
    size: int
    metrics: dict[str, int]
    ids: Sequence = ()
    client_index: Sequence | np.ndarray = ()


def cohort_drawer(
    sampler: Callable, data: FederatedData, batching: Batching, *, key: jax.Array
) -> Callable[[int], RoundCohort]:
    """Returns a function that draws the clients of a round and their batches.

    It takes the number of the draw: that of the round, plus the number of retries so far. A round that is tried again
    thus gets the clients that the next round would have had.

    Args:
      sampler: a function from the number of the draw to the ids of the clients, or to a `Participation`.
      data: the population.
      batching: how the examples of a client become batches.
      key: draws the shuffling; the number of the draw is folded in.
    """

    def draw(number: int) -> RoundCohort:
        with noted(f"in the sampler, for round {number}"):
            drawn = sampler(number)
        round_key = jax.random.fold_in(key, number)
        if not isinstance(drawn, Participation):
            return round_cohort(data.cohort(drawn, batching, key=round_key), {})
        metrics = {f"participation/{name}": value for name, value in drawn.metrics().items()}
        if drawn.skipped:
            return RoundCohort(None, 0, metrics)
        cohort = data.cohort(drawn.ids, batching, drawn.max_steps, extra=drawn.extra, key=round_key)
        return round_cohort(cohort, metrics)

    return draw


def round_cohort(cohort: Cohort, metrics: dict[str, int]) -> RoundCohort:
    """The `RoundCohort` of a round that is not skipped."""
    return RoundCohort(cohort, len(cohort), metrics, cohort.ids, cohort.client_index)


def drawn_once(drawn: RoundCohort, number: int) -> RoundCohort:
    """The clients of a round, each of which may be drawn only once, as an accounting assumes.

    Raises:
      ValueError: a client is drawn twice.
    """
    clients, counts = np.unique(np.asarray(drawn.client_index), return_counts=True)
    if (counts > 1).any():
        twice = clients[np.argmax(counts > 1)]
        which = drawn.ids[int(np.flatnonzero(np.asarray(drawn.client_index) == twice)[0])]
        raise ValueError(
            f"Run(accounting=...) accounts for rounds that draw each client at most once, got the client {which!r} "
            f"twice in round {number}; draw without replacement: fc.data.uniform_sampler(ids, cohort_size, key=key)"
        )
    return drawn


def run_rounds(
    start: RunStart,
    ending: Ending,
    draw: Callable[[int], RoundCohort],
    *,
    evaluate: Callable[[int, Any, bool], Any] = lambda number, state, is_last: None,
    added: Callable[[int], dict[str, Any]] = lambda number: {},
    retrying: Retrying = NEVER,
    outlets: Sequence[Outlet] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Round:
    """Runs the rounds after `start`, at least one, until the run is over.

    Args:
      start: where the run begins.
      ending: decides which round is the last one; it has seen the history of `start`.
      draw: the function that `cohort_drawer` returns; called for a round while the devices compute the previous one.
      evaluate: `(number, state, is_last)` -> the metrics on held-out data after a round, or None.
      added: a function from the round number to the metrics that the round's record has besides the process's.
      retrying: which rounds are tried again, from the state before them; skipped ones are not.
      outlets: receive each round, in order.
      clock: returns the time in seconds.

    Returns:
      The last round.
    """
    state, history = start.state, start.history
    epoch = clock() - (history.records[-1].seconds if len(history) else 0)
    ahead, retries = None, retries_so_far(history)
    with _closing(outlets):
        for number in itertools.count(start.completed + 1):
            begin = clock()
            for num_retries in itertools.count():
                drawn = draw(number + retries + num_retries) if ahead is None else ahead
                after, metrics = (state, None) if drawn.cohort is None else start.next(state, drawn.cohort)
                drawn = drawn._replace(cohort=None)  # frees its examples while the next ones are read
                later = number + retries + num_retries + 1  # for the next round, or for this one again
                ahead = None if number == ending.last_round else _drawn_ahead(draw, start.next, later)
                metrics = on_host(metrics)  # waits for the devices
                output = LearningProcessOutput(after, metrics)
                if metrics is None or not retrying.asks(output, round_num=number, num_retries=num_retries):
                    break
            retries += num_retries
            measured = {**added(number), **retrying.measured(num_retries)}
            flat = {**drawn.metrics, **flatten_metrics(metrics), **measured}
            round_seconds = clock() - begin
            is_last = ending.measured(number, flat)
            held_out = evaluate(number, after, is_last)
            flat_held_out = flatten_metrics(held_out)
            is_last = ending.measured(number, {f"held_out/{n}": v for n, v in flat_held_out.items()}) or is_last
            record = Record(number, clock() - epoch, round_seconds, drawn.size, flat, flat_held_out)
            record = _with_names(record, metrics, drawn)
            history.append(record)
            ending.check_measured(record)
            state = after
            round_ = Round(number, state, metrics, held_out, record, is_last)
            for outlet in outlets:
                outlet.take(round_)
            if is_last:
                return round_
    raise AssertionError("the numbers of rounds have no end")


@contextlib.contextmanager
def _closing(outlets: Sequence[Outlet]):
    """Closes all outlets, in order, even if one fails; after Ctrl-C, first calls `interrupt` on each.

    What fails at the end of a run that has already failed is a note of its error.
    """
    with contextlib.ExitStack() as stack:
        for outlet in reversed(outlets):
            stack.push(functools.partial(_close, outlet))
        try:
            yield
        except KeyboardInterrupt:
            for outlet in outlets:
                outlet.interrupt()
            raise


def _close(outlet: Outlet, kind: Any, failed: BaseException | None, *where: Any) -> None:
    """Closes an outlet at the end of a run, which may have failed."""
    try:
        outlet.close()
    except Exception as error:
        if not isinstance(failed, Exception):
            raise
        failed.add_note(f"and at the end of the run: {type(error).__name__}: {error}")


def _drawn_ahead(draw: Callable[[int], RoundCohort], next_round: Computation, number: int) -> RoundCohort | None:
    """Draws and reads a round's clients while the devices compute the previous round.

    Returns None after an error, so that the previous round is still released: the round itself draws again, and raises.
    """
    with contextlib.suppress(Exception):
        drawn = draw(number)
        if drawn.cohort is not None:
            next_round.prefetch(drawn.cohort)
        return drawn
    return None


def _with_names(record: Record, metrics: Any, drawn: RoundCohort) -> Record:
    """The record with the clients that the round left out, by their ids."""
    if not record.num_left_out or not _are_listed(metrics):
        return record
    # The process knows clients by their rows in the population, and the data may be a part of it that keeps its rows.
    ids = dict(zip(np.asarray(drawn.client_index).tolist(), drawn.ids))
    left_out = left_out_clients(metrics, ids).items()
    plain = ((i.item() if isinstance(i, np.generic) else i, reason) for i, reason in left_out)  # JSON can hold these
    return record._replace(left_out=tuple(plain))


def _are_listed(metrics: Any) -> bool:
    """Whether the metrics list the clients left out; a process that `compose` did not build may only count them."""
    return "non_finite_clients" in metrics["client_work"]["train"]
