"""The training loop."""

import operator
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fedjax_core.computation import Computation
from fedjax_core.data import Batching, FederatedData, sample_clients
from fedjax_core.program._history import History, Record, flatten_metrics
from fedjax_core.program._progress import ProgressBar
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
    folder: RunFolder | None = None,
    on_round: Callable[[Round], None] | None = None,
    progress: bool = True,
) -> TrainResult:
    """Runs rounds of a learning process, each with a freshly drawn cohort.

    Everything is checked before anything runs. Round `r` (from 1) draws its clients with
    `sample_clients(key, r, ...)` and shuffles with `fold_in(key, r)`, so that a run is a function
    of its arguments.

    Args:
      process: for example `fed_avg(model, optax.sgd(0.1), key=...)`.
      train_data: the population that cohorts are drawn from, without replacement.
      cohort_size: clients a round.
      rounds: how many.
      batching: how the examples of a client become batches.
      key: draws cohorts and shuffling. The process has a key of its own.
      evaluation: a stateless computation `(<W@SERVER,{D*}@CLIENTS> -> M@SERVER)`, for example
        `federated_evaluation(model)`. Needs `test_data`.
      test_data: what is held out; every evaluation goes over all of its clients.
      evaluate_every: evaluates after every so many rounds, and always after the last one.
      eval_batching: of `test_data`; None for batches of 100 in order.
      folder: where to leave `metrics.csv` (written as the run goes), `weights.npz` and `curves.png`
        (at its end, also when an error or Ctrl-C ends it after some rounds); None for nowhere.
      on_round: called with a `Round` after each.
      progress: whether to show a progress bar on standard error if that is a terminal.

    Returns:
      A `TrainResult(state, history)`.

    Raises:
      TypeError: an argument is of another kind than described, or the data is not of the
        type that the process or the evaluation takes.
      ValueError: a number is not positive, `cohort_size` exceeds the population, or only one of
        `evaluation` and `test_data` is given.

    Example:
      >>> import jax, optax, fedjax_core as fc
      >>> data = fc.data.synthetic_iid(num_clients=20, key=jax.random.key(0))
      >>> model = fc.models.logistic_regression(60, 10)
      >>> process = fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(1))
      >>> batching = fc.data.Batching(batch_size=20)
      >>> state, history = fc.program.train(
      ...     process, data, cohort_size=5, rounds=3, batching=batching, key=jax.random.key(2)
      ... )
      >>> loss = history.column("client_work.train.loss")
      >>> bool(loss[2] < loss[0])
      True
    """
    cohort_size, rounds = _positive("cohort_size", cohort_size), _positive("rounds", rounds)
    evaluate_every = _positive("evaluate_every", evaluate_every)
    eval_batching = Batching(batch_size=100) if eval_batching is None else eval_batching
    _check_training(process, train_data, cohort_size, batching, key)
    _check_evaluation(evaluation, test_data, eval_batching)
    evaluate = _evaluator(process, evaluation, test_data, eval_batching)
    history = History()
    start = time.monotonic()
    state = process.initialize()
    try:
        with ProgressBar(rounds, disable=not progress) as bar:
            for number in range(1, rounds + 1):
                begin = time.monotonic()
                clients = sample_clients(key, number, train_data.client_ids, cohort_size)
                cohort = train_data.cohort(clients, batching, jax.random.fold_in(key, number))
                state, metrics = process.next(state, cohort)
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
                if on_round is not None:
                    on_round(Round(number, state, metrics, held_out, record))
    finally:
        if folder is not None and len(history):
            folder.finish(process.get_model_weights(state), history)
    return TrainResult(state, history)


def _evaluator(
    process: LearningProcess, evaluation: Computation | None, test_data: FederatedData | None, batching: Batching
) -> Callable[[Any], Any]:
    """What measures the weights of a state on the held-out data, packed once for all rounds."""
    if evaluation is None:
        return lambda state: None
    cohort = test_data.cohort(test_data.client_ids, batching)
    return lambda state: evaluation(process.get_model_weights(state), cohort)


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
