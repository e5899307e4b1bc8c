"""The training loop."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from fedjax_core.computations import Computation
from fedjax_core.data import Batching, FederatedData, sample_clients
from fedjax_core.privacy import Accounting, everyone, fixed_size
from fedjax_core.program import _checks
from fedjax_core.program._checkpoints import Checkpoints
from fedjax_core.program._loop import Round, TrainResult, cohorts, run_identity_of, run_rounds, start_of, writing
from fedjax_core.program._releases import ReleaseManager
from fedjax_core.program._run_folder import RunFolder
from fedjax_core.templates import LearningProcess


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
    as a run that was never interrupted. Of several processes of one `jax.distributed` job, which all call
    this alike, the first one writes, releases and shows progress.

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
        round and, where Ctrl-C ends it, after the last one that is released; None for neither. Where the
        number of lanes is left to the engine, it is the checkpoint's.
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
      BlockingIOError: another run is writing to `folder` or to the folder of `checkpoints`.
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
    cohort_size = _checks.checked_count("train", "cohort_size", cohort_size)
    rounds = _checks.checked_count("train", "rounds", rounds)
    evaluate_every = _checks.checked_count("train", "evaluate_every", evaluate_every)
    eval_batching = Batching(batch_size=100) if eval_batching is None else eval_batching
    _check_training(process, train_data, cohort_size, batching, key)
    _check_evaluation(evaluation, test_data, eval_batching)
    _check_accounting(accounting, cohort_size, len(train_data))
    _checks.check_outlets("train", checkpoints, release_manager)
    measure = _evaluator(process, evaluation, test_data, eval_batching)
    ask = functools.partial(sample_clients, ids=train_data.client_ids, cohort_size=cohort_size, key=key)
    if jax.process_index() > 0:
        folder, release_manager, progress = None, None, False
    with writing(None if folder is None else folder.path, checkpoints):
        return run_rounds(
            start_of(process, checkpoints, run_identity_of(key, cohort_size, train_data, batching)),
            rounds,
            cohorts(ask, train_data, batching, key),
            get_weights=process.get_model_weights,
            evaluate=lambda number, state: measure(state) if number % evaluate_every == 0 or number == rounds else None,
            on_round=on_round,
            accounting=accounting,
            folder=folder,
            checkpoints=checkpoints,
            release_manager=release_manager,
            progress=progress,
        )


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
    _checks.check_data("train", "train_data", train_data, "the process", process.next)
    _checks.check_cohort_size("train", cohort_size, train_data)
    _checks.check_batching("train", "batching", batching)
    _checks.check_key("train", key)


def _check_evaluation(evaluation, test_data, eval_batching) -> None:
    _checks.check_eval_batching("train", eval_batching)
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
    _checks.check_data("train", "test_data", test_data, "the evaluation", evaluation)


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
