"""The training loop."""

import dataclasses
import operator
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fedjax_core.computation import Computation
from fedjax_core.data import Batching, FederatedData, sample_clients
from fedjax_core.privacy import Accounting, everyone, fixed_size
from fedjax_core.program._checkpoints import Checkpoint, Checkpoints
from fedjax_core.program._history import History, Record, flatten_metrics, named_values
from fedjax_core.program._progress import ProgressBar
from fedjax_core.program._releases import ReleaseManager
from fedjax_core.program._run_folder import RunFolder
from fedjax_core.templates import LearningProcess
from fedjax_core.types import SequenceType, Type, leaves


class Round(NamedTuple):
    """What `on_round` is told after each round.

    Attributes:
      number: of the round, from 1.
      state: the process's state after it.
      metrics: what the process measured, as it returned it.
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


def train(
    process: LearningProcess,
    train_data: FederatedData,
    *,
    cohort_size: int,
    rounds: int,
    batching: Batching,
    key: jax.Array,
    evaluation: Computation | None = None,
    test_data: FederatedData | None = None,
    evaluate_every: int = 10,
    eval_batching: Batching | None = None,
    accounting: Accounting | None = None,
    folder: RunFolder | None = None,
    checkpoints: Checkpoints | None = None,
    release_manager: ReleaseManager | None = None,
    on_round: Callable[[Round], None] | None = None,
    progress: bool = True,
) -> TrainResult:
    """Runs rounds of a learning process, each with a freshly drawn cohort.

    Everything is checked before anything runs. Round `r` (from 1) draws its clients with
    `sample_clients(key, r, ...)` and shuffles with `fold_in(key, r)`, so that a run is a function
    of its arguments. With `checkpoints` it goes on after the latest one, and ends with the same bits
    as a run that was never interrupted.

    Args:
      process: for example `fed_avg(model, optax.sgd(0.1), key=...)`.
      train_data: the population that cohorts are drawn from, without replacement.
      cohort_size: clients a round.
      rounds: how many, those before the latest checkpoint included.
      batching: how the examples of a client become batches.
      key: draws cohorts and shuffling. The process has a key of its own.
      evaluation: a stateless computation `(<W@SERVER,{D*}@CLIENTS> -> M@SERVER)`, for example
        `federated_evaluation(model)`. Needs `test_data`.
      test_data: what is held out; every evaluation goes over all of its clients.
      evaluate_every: evaluates after every so many rounds, and always after the last one.
      eval_batching: of `test_data`; None for batches of 100 in order.
      accounting: what the rounds cost in privacy, as `fc.privacy.accounting(...)` counts it for the process's
        `private_mean`; each record then has the metric `privacy/epsilon`. Its sampling must be the one above,
        `fixed_size(cohort_size, len(train_data))`, or `everyone()` where the cohort is.
      folder: where to leave `metrics.csv` (written as the run goes), `weights.npz` and `curves.png`
        (at its end, also when an error or Ctrl-C ends it after some rounds); None for nowhere.
      checkpoints: where the run is resumed from and what it leaves to be resumed, also after its last
        round; None for neither. Where the number of lanes is left to the engine, it is the checkpoint's.
      release_manager: gets, after each round, `seconds`, `round_seconds`, `num_clients`, what the process
        measured and, under `held_out/`, what the evaluation measured; for several `group_releases(...)`.
      on_round: called with a `Round` after each.
      progress: whether to show a progress bar on standard error if that is a terminal.

    Returns:
      A `TrainResult(state, history)`.

    Raises:
      TypeError: an argument is of another kind than described, or the data is not of the
        type that the process or the evaluation takes.
      CheckpointTypeError: the latest checkpoint is of another model or algorithm.
      ValueError: a number is not positive, `cohort_size` exceeds the population, only one of
        `evaluation` and `test_data` is given, or `accounting` is for another sampling.

    Example:
      >>> import jax, optax, fedjax_core as fc
      >>> data = fc.data.synthetic_iid(num_clients=20, key=jax.random.key(0))
      >>> model = fc.models.logistic_regression(60, 10)
      >>> process = fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(1))
      >>> batching = fc.data.Batching(batch_size=20)
      >>> state, history = fc.program.train(
      ...     process, data, cohort_size=5, rounds=3, batching=batching, key=jax.random.key(2)
      ... )
      >>> loss = history.column("client_work/train/loss")
      >>> bool(loss[2] < loss[0])
      True
    """
    cohort_size, rounds = _positive("cohort_size", cohort_size), _positive("rounds", rounds)
    evaluate_every = _positive("evaluate_every", evaluate_every)
    eval_batching = Batching(batch_size=100) if eval_batching is None else eval_batching
    _check_training(process, train_data, cohort_size, batching, key)
    _check_evaluation(evaluation, test_data, eval_batching)
    _check_accounting(accounting, cohort_size, len(train_data))
    _check_outlets(checkpoints, release_manager)
    evaluate = _evaluator(process, evaluation, test_data, eval_batching)
    position = _position(key, cohort_size, train_data, batching)
    run = _start(process, checkpoints, position)
    state, history = run.state, run.history
    start = time.monotonic() - (history.records[-1].seconds if len(history) else 0)
    try:
        with ProgressBar(rounds, run.completed, disable=not progress) as bar:
            for number in range(run.completed + 1, rounds + 1):
                begin = time.monotonic()
                clients = sample_clients(key, number, train_data.client_ids, cohort_size)
                cohort = train_data.cohort(clients, batching, jax.random.fold_in(key, number))
                state, metrics = run.next(state, cohort)
                flat = flatten_metrics(metrics)
                round_seconds = time.monotonic() - begin
                held_out = evaluate(state) if number % evaluate_every == 0 or number == rounds else None
                flat_held_out = flatten_metrics(held_out)
                seconds = time.monotonic() - start
                record = Record(number, seconds, round_seconds, len(clients), flat, flat_held_out)
                history.append(record)
                bar.update(record)
                if folder is not None:
                    folder.write_metrics(history)
                if release_manager is not None:
                    release_manager.release(_values(record, metrics, held_out), number)
                if checkpoints is not None and (number % checkpoints.every == 0 or number == rounds):
                    checkpoints.save(Checkpoint(number, state, history, position, _environment(run.next)))
                if on_round is not None:
                    on_round(Round(number, state, metrics, held_out, record))
    finally:
        if folder is not None and len(history):
            folder.finish(process.get_model_weights(state), history)
        if checkpoints is not None:
            checkpoints.wait()
    return TrainResult(state, history)


class _Start(NamedTuple):
    """Where a run begins: the state, what was measured so far, the rounds behind it, and what runs the next one."""

    state: Any
    history: History
    completed: int
    next: Computation


def _start(process: LearningProcess, checkpoints: Checkpoints | None, position: dict[str, Any]) -> _Start:
    state = process.initialize()
    checkpoint = None if checkpoints is None else checkpoints.restore(like=state)
    if checkpoint is None:
        return _Start(state, History(), 0, process.next)
    next_round = _with_lanes(process.next, checkpoint.environment.get("lanes"))
    _warn_if_different(checkpoint, {**position, **_environment(next_round)})
    return _Start(checkpoint.state, checkpoint.history, checkpoint.round, next_round)


def _with_lanes(next_round: Computation, lanes: int | None) -> Computation:
    """The same computation with the lanes of a checkpoint, if their number was left to the engine."""
    config = next_round.config
    if lanes is None or isinstance(config.lanes, int) or (config.lanes is None and config.resolve().lanes == lanes):
        return next_round
    return next_round.with_config(dataclasses.replace(config, lanes=lanes))


def _position(key: jax.Array, cohort_size: int, train_data: FederatedData, batching: Batching) -> dict[str, Any]:
    """What decides, with the number of a round, who takes part in it and in which batches."""
    return {
        "key": jax.random.key_data(key).tolist(),
        "cohort_size": cohort_size,
        "num_clients": len(train_data),
        "batching": dataclasses.asdict(batching),
    }


def _environment(next_round: Computation) -> dict[str, Any]:
    """What decides, besides the arguments, the bits of a round."""
    layout = next_round.config.resolve()
    device = layout.devices[0].device_kind
    return {"jax": jax.__version__, "device": device, "lanes": layout.lanes, "virtual_shards": layout.shards}


def _warn_if_different(checkpoint: Checkpoint, now: dict[str, Any]) -> None:
    before = {**checkpoint.position, **checkpoint.environment}
    different = [f"{name} was {before.get(name)} and is {now[name]}" for name in now if before.get(name) != now[name]]
    if different:
        warnings.warn(
            f"the rounds after {checkpoint.round} are not those of an uninterrupted run: {'; '.join(different)}",
            stacklevel=4,
        )


def _values(record: Record, metrics: Any, held_out: Any) -> dict[str, Any]:
    """What is released after a round, by name."""
    own = {"seconds": record.seconds, "round_seconds": record.round_seconds, "num_clients": record.num_clients}
    return {
        **own,
        **named_values(metrics),
        **{f"held_out/{name}": value for name, value in named_values(held_out).items()},
    }


def _evaluator(
    process: LearningProcess, evaluation: Computation | None, test_data: FederatedData | None, batching: Batching
) -> Callable[[Any], Any]:
    """What measures the weights of a state on the held-out data, packed once for all rounds."""
    if evaluation is None:
        return lambda state: None
    cohort = test_data.cohort(test_data.client_ids, batching)
    return lambda state: evaluation(process.get_model_weights(state), cohort)


def _spent(accounting: Accounting | None, round_num: int) -> dict[str, float]:
    return {} if accounting is None else {"privacy/epsilon": accounting.epsilon_so_far(round_num)}


def _check_training(process, train_data, cohort_size: int, batching, key) -> None:
    if not isinstance(process, LearningProcess):
        raise TypeError(
            f"train(process=...) must be a LearningProcess, got {process!r}; for example "
            "fc.algorithms.fed_avg(model, optax.sgd(0.1), key=key)"
        )
    _check_data("train_data", train_data, "the process", process.next)
    if cohort_size > len(train_data):
        raise ValueError(
            f"train(cohort_size={cohort_size}) draws without replacement, got {len(train_data)} clients; use "
            f"cohort_size={len(train_data)} or less"
        )
    _check_batching("batching", batching)
    if not isinstance(key, jax.Array) or not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) or key.ndim:
        raise TypeError(f"train(key=...) must be one typed key, got {key!r}; use jax.random.key(0)")


def _check_outlets(checkpoints, release_manager) -> None:
    if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
        raise TypeError(
            f"train(checkpoints=...) must be Checkpoints, got {checkpoints!r}; use "
            "fc.program.Checkpoints('runs/first/checkpoints')"
        )
    if release_manager is not None and not isinstance(release_manager, ReleaseManager):
        raise TypeError(
            f"train(release_manager=...) must be a ReleaseManager, got {release_manager!r}; for example "
            "fc.program.release_to_csv('metrics.csv'), and for several fc.program.group_releases(one, another)"
        )


def _check_evaluation(evaluation, test_data, eval_batching) -> None:
    _check_batching("eval_batching", eval_batching)
    if eval_batching.shuffle:
        raise ValueError(
            f"train(eval_batching={eval_batching}) shuffles, which changes no metric; leave out `shuffle=True`"
        )
    if (evaluation is None) != (test_data is None):
        missing = "evaluation=fc.algorithms.federated_evaluation(model)" if evaluation is None else "test_data=held_out"
        raise ValueError(f"train evaluates with `evaluation` on `test_data`, got only one of them; add {missing}")
    if evaluation is None:
        return
    if not isinstance(evaluation, Computation) or len(evaluation.parameters) != 2:
        raise TypeError(
            "train(evaluation=...) must be a computation of weights and client data, got "
            f"{evaluation!r}; use fc.algorithms.federated_evaluation(model)"
        )
    _check_data("test_data", test_data, "the evaluation", evaluation)


def _check_accounting(accounting, cohort_size: int, population: int) -> None:
    if accounting is None:
        return
    drawn = fixed_size(cohort_size, population)
    if not isinstance(accounting, Accounting):
        raise TypeError(
            f"train(accounting=...) must be an Accounting, got {accounting!r}; use fc.privacy.accounting("
            f"noise_multiplier=1.0, delta=1e-6, sampling=fc.privacy.{drawn})"
        )
    if accounting.sampling not in (drawn, everyone() if cohort_size == population else drawn):
        raise ValueError(
            f"train(accounting=...) must be for the cohorts that train draws, got sampling={accounting.sampling}; use "
            f"sampling=fc.privacy.{drawn}"
        )


def _check_data(name: str, data, taker: str, computation: Computation) -> None:
    """Checks that the second argument of `computation` takes the clients of `data`."""
    if not isinstance(data, FederatedData):
        raise TypeError(
            f"train({name}=...) must be FederatedData, got {type(data).__name__}; use FederatedData.from_clients(...)"
        )
    taken: Type = computation.parameters[1][1].member
    given = SequenceType(data.element_type)
    if not taken.is_assignable_from(given):
        raise TypeError(
            f"train({name}=...): a client holds {given} and {taker} takes {taken}{_difference(taken, given)}; "
            "convert the examples: `data.map(lambda examples: {'x': ..., 'y': ...})`"
        )


def _difference(taken: Type, given: Type) -> str:
    """Which fields differ, said in words where both are sequences of structs."""
    if not isinstance(taken, SequenceType):
        return ""
    fields, others = ({path: str(leaf) for path, leaf in leaves(t.element)} for t in (taken, given))
    different = [name for name in {**fields, **others} if fields.get(name) != others.get(name)]
    return f" (they differ in {', '.join(map(repr, different))})" if any(different) else ""


def _check_batching(name: str, batching) -> None:
    if not isinstance(batching, Batching):
        raise TypeError(f"train({name}=...) must be a Batching, got {batching!r}; use Batching(batch_size=20)")


def _positive(name: str, value) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"train({name}=...) must be an integer, got {value!r}; use {name}=10") from None
    if value < 1:
        raise ValueError(f"train({name}=...) must be at least 1, got {value}; use {name}=10")
    return value
