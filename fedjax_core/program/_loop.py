"""The loop of rounds, which `train` and `Experiment` run."""

import contextlib
import dataclasses
import itertools
import pathlib
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fedjax_core.algorithms import LearningState
from fedjax_core.computations import Computation
from fedjax_core.data import Batching, FederatedData, Participation
from fedjax_core.privacy import Accounting
from fedjax_core.program._checkpoints import Checkpoint, Checkpoints
from fedjax_core.program._history import History, Record, flatten_metrics, named_values, on_host
from fedjax_core.program._progress import ProgressBar
from fedjax_core.program._releases import ReleaseManager
from fedjax_core.program._run_folder import RunFolder
from fedjax_core.program._sole_writer import sole_writer
from fedjax_core.templates import LearningProcess


class Round(NamedTuple):
    """What `on_round` and `train_hooks` are told after each round.

    Attributes:
      number: of the round, from 1.
      state: the process's state after it.
      metrics: what the process measured, as it returned it; None if the round was skipped.
      held_out: what the evaluation measured, as it returned it; None if there was none.
      record: the same in plain numbers.
    """

    number: int
    state: Any
    metrics: Any
    held_out: Any
    record: Record


class TrainResult(NamedTuple):
    """What `train` returns.

    Attributes:
      state: the process's state after the last round.
      history: a `History` with one record a round.
    """

    state: Any
    history: History


class Start(NamedTuple):
    """Where a run begins.

    Attributes:
      state: of the process.
      history: what was measured so far.
      completed: the rounds behind it.
      next: what runs the next one.
      run_identity: what decides, with the number of a round, who takes part in it and in which batches; JSON.
    """

    state: Any
    history: History
    completed: int
    next: Computation
    run_identity: dict[str, Any]


class Drawn(NamedTuple):
    """The clients of a round.

    Attributes:
      cohort: what `process.next` takes; None if the round is skipped.
      size: how many clients there are.
      metrics: how the clients turned out, where that was asked for.
    """

    cohort: Any
    size: int
    metrics: dict[str, int]


def cohorts(ask: Callable, data: FederatedData, batching: Batching, key: jax.Array) -> Callable[[int], Drawn]:
    """Draws the clients of a round and their batches.

    Args:
      ask: round number -> the ids of the clients, or a `Participation`.
      data: the population.
      batching: how the examples of a client become batches.
      key: draws the shuffling; the round number is folded in.
    """

    def draw(number: int) -> Drawn:
        asked, round_key = ask(number), jax.random.fold_in(key, number)
        if not isinstance(asked, Participation):
            return Drawn(data.cohort(asked, batching, key=round_key), len(asked), {})
        metrics = {f"participation/{name}": value for name, value in asked.metrics().items()}
        if asked.skipped:
            return Drawn(None, 0, metrics)
        return Drawn(
            data.cohort(asked.ids, batching, key=round_key, max_steps=asked.max_steps), len(asked.ids), metrics
        )

    return draw


def start_of(process: LearningProcess, checkpoints: Checkpoints | None, run_identity: dict[str, Any]) -> Start:
    """The first state, or that after the latest checkpoint.

    Warns:
      UserWarning: the rounds that follow are not those of an uninterrupted run, because the run_identity or the
        environment is another one; or the process was built with another key.

    Raises:
      CheckpointTypeError: the checkpoint is of another model or algorithm.
    """
    state = process.initialize()
    checkpoint = None if checkpoints is None else checkpoints.restore(like=state)
    if checkpoint is None:
        return Start(state, History(), 0, process.next, run_identity)
    next_round = _with_lanes(process.next, checkpoint.environment.get("lanes"))
    _warn_if_different(checkpoint, {**run_identity, **_environment(next_round)})
    _warn_of_another_key(checkpoint.state, state)
    return Start(checkpoint.state, checkpoint.history, checkpoint.round, next_round, run_identity)


def run_identity_of(
    key: jax.Array, cohort_size: int | None, train_data: FederatedData, batching: Batching
) -> dict[str, Any]:
    """See `Start.run_identity`."""
    return {
        "key": jax.random.key_data(key).tolist(),
        "cohort_size": cohort_size,
        "num_clients": len(train_data),
        "batching": dataclasses.asdict(batching),
    }


def writing(folder: pathlib.Path | None, checkpoints: Checkpoints | None) -> contextlib.AbstractContextManager:
    """The time in which a run writes: another one that wants to write there is refused with a BlockingIOError."""
    folders = [] if folder is None else [folder]
    folders += [] if checkpoints is None else [checkpoints.folder]
    return sole_writer(*(folders if jax.process_index() == 0 else ()))


def is_saved(checkpoints: Checkpoints, number: int, rounds: int | None) -> bool:
    """Whether a run leaves a checkpoint after a round: when one is due, and after the last round."""
    return number % checkpoints.every == 0 or number == rounds


def run_rounds(
    start: Start,
    rounds: int | None,
    draw: Callable[[int], Drawn],
    *,
    get_weights: Callable[[Any], Any],
    evaluate: Callable[[int, Any], Any],
    on_round: Callable[[Round], None] | None,
    accounting: Accounting | None = None,
    folder: RunFolder | None = None,
    checkpoints: Checkpoints | None = None,
    release_manager: ReleaseManager | None = None,
    progress: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> TrainResult:
    """Runs the rounds after `start`, to the absolute number `rounds`; None for ever.

    Args:
      start: from `start_of`.
      rounds: the number of the last one.
      draw: from `cohorts`; asked for a round while the one before computes.
      get_weights: state -> the model's weights, for the folder.
      evaluate: `(number, state)` -> what is measured on held-out data after the round, or None.
      on_round: as of `train`, like what follows.
      accounting: see there.
      folder: see there.
      checkpoints: see there.
      release_manager: see there.
      progress: see there.
      clock: gives the time in seconds.
    """
    state, history = start.state, start.history
    epoch = clock() - (history.records[-1].seconds if len(history) else 0)
    numbers = itertools.count(start.completed + 1)
    released = saved = start.completed
    ahead = None

    def save() -> None:
        nonlocal saved
        checkpoints.save(Checkpoint(released, state, history, start.run_identity, _environment(start.next)))
        saved = released

    try:
        with ProgressBar(rounds, start.completed, disable=not progress) as bar:
            for number in numbers if rounds is None else range(start.completed + 1, rounds + 1):
                begin = clock()
                drawn = draw(number) if ahead is None else ahead
                after, metrics = (state, None) if drawn.cohort is None else start.next(state, drawn.cohort)
                drawn = drawn._replace(cohort=None)
                ahead = None if number == rounds else _drawn_ahead(draw, start.next, number + 1)
                measured = on_host(metrics)
                flat = {**drawn.metrics, **flatten_metrics(measured), **_spent(accounting, number)}
                round_seconds = clock() - begin
                held_out = evaluate(number, after)
                flat_held_out = flatten_metrics(held_out)
                record = Record(number, clock() - epoch, round_seconds, drawn.size, flat, flat_held_out)
                history.append(record)
                state = after
                bar.update(record)
                if folder is not None:
                    folder.write_metrics(history)
                if release_manager is not None:
                    release_manager.release(_values(record, drawn, measured, held_out), number)
                released = number
                if checkpoints is not None and is_saved(checkpoints, number, rounds):
                    save()
                if on_round is not None:
                    on_round(Round(number, state, metrics, held_out, record))
    except KeyboardInterrupt:
        if checkpoints is not None and saved < released == history.records[-1].round:
            save()  # of the last round that is released; one that is not must be run again
        raise
    finally:
        if folder is not None and len(history):
            folder.finish(get_weights(state), history)
        if checkpoints is not None:
            checkpoints.wait()
    return TrainResult(state, history)


def _drawn_ahead(draw: Callable[[int], Drawn], next_round: Computation, number: int) -> Drawn | None:
    """Draws and reads a round's clients while the devices compute the round before.

    None after an error, which waits until the round before is released: the round itself draws again, and meets it.
    """
    with contextlib.suppress(Exception):
        drawn = draw(number)
        if drawn.cohort is not None:
            next_round.prefetch(drawn.cohort)
        return drawn
    return None


def _with_lanes(next_round: Computation, lanes: int | None) -> Computation:
    """The same computation with the lanes of a checkpoint, if their number was left to the engine."""
    config = next_round.config
    if lanes is None or isinstance(config.lanes, int) or (config.lanes is None and config.resolve().lanes == lanes):
        return next_round
    return next_round.with_config(dataclasses.replace(config, lanes=lanes))


def _environment(next_round: Computation) -> dict[str, Any]:
    """What decides, besides the arguments, the bits of a round."""
    layout = next_round.config.resolve()
    device = layout.devices[0].device_kind
    return {"jax": jax.__version__, "device": device, "lanes": layout.lanes, "virtual_shards": layout.shards}


def _warn_if_different(checkpoint: Checkpoint, now: dict[str, Any]) -> None:
    before = {**checkpoint.run_identity, **checkpoint.environment}
    different = [f"{name} was {before.get(name)} and is {now[name]}" for name in now if before.get(name) != now[name]]
    if different:
        warnings.warn(
            f"the rounds after {checkpoint.round} are not those of an uninterrupted run: {'; '.join(different)}",
            stacklevel=4,
        )


def _warn_of_another_key(restored: Any, initial: Any) -> None:
    """A `LearningState` has a key that no round changes."""
    if not isinstance(initial, LearningState):
        return
    before, now = (jax.random.key_data(state.key).tolist() for state in (restored, initial))
    if before != now:
        warnings.warn(
            "the process was built with another key than that of the checkpoint, with which the run goes on; for "
            "another key give the run a folder of its own",
            stacklevel=4,
        )


def _spent(accounting: Accounting | None, round_num: int) -> dict[str, float]:
    return {} if accounting is None else {"privacy/epsilon": accounting.epsilon_so_far(round_num)}


def _values(record: Record, drawn: Drawn, metrics: Any, held_out: Any) -> dict[str, Any]:
    """What is released after a round, by name."""
    own = {"seconds": record.seconds, "round_seconds": record.round_seconds, "num_clients": record.num_clients}
    spent = {name: value for name, value in record.metrics.items() if name == "privacy/epsilon"}
    return {
        **own,
        **drawn.metrics,
        **named_values(metrics),
        **spent,
        **{f"held_out/{name}": value for name, value in named_values(held_out).items()},
    }
