"""A `Run` with the methods of tf.contrib.learn's Experiment."""

import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax

from fedjax_core import _checks
from fedjax_core.computations import Computation
from fedjax_core.contracts import Metric, Model
from fedjax_core.data import Batching, FederatedData, Participation, Sampler
from fedjax_core.program import _run_arguments as _arguments
from fedjax_core.program._evaluating import Evaluation, EvaluationResult
from fedjax_core.program._exports import Export
from fedjax_core.program._job import Job, join_as_coordinator
from fedjax_core.program._outlets import Round
from fedjax_core.program._run import Run
from fedjax_core.program._watching import Time, wait_for_round
from fedjax_core.templates import LearningProcess

_POLL_SECONDS = 1.0
_ROUNDS_OF_DELAY = 8000.0
_RUN_OPTIONS = (
    "checkpoints",
    "releases",
    "accounting",
    "initial_state",
    "should_retry_round",
    "max_retries",
    "progress",
)
_NAMES = {
    "sampler": "cohort_size",
    "rounds": "train_rounds",
    "folder": "run_dir",
    "on_round": "train_hooks",
    "by": "evaluation",
    "data": "eval_data",
    "metrics": "eval_metrics",
    "steps": "eval_steps",
    "hooks": "eval_hooks",
    "every": "min_eval_frequency",
}
"""The names that `Experiment` has for the arguments of `Run` and `Evaluation`."""


class Experiment:
    """Trains, evaluates and exports one process in one folder, with the methods of tf.contrib.learn's Experiment.

    It is an adapter for those who know that class; every method calls a `Run`, which has all of the features. The
    methods share the folder (see `Run`): `train` writes checkpoints to it, and the other methods find them there, in
    the same process or another, at once or after a crash.

    Attributes:
      train_hooks: functions of a `Round`, called after each round.
      eval_hooks: functions of an `EvaluationResult`, called after each evaluation.
      exports: what `train_and_evaluate` exports.

    Example:
      >>> import jax, optax, tempfile, fedjax_core as fc
      >>> train_data, test_data = fc.data.synthetic_iid(num_clients=20, key=jax.random.key(0)).split_examples(0.8)
      >>> model = fc.models.logistic_regression(60, 10, metrics={"accuracy": fc.metrics.accuracy()})
      >>> experiment = Experiment(
      ...     fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(1)),
      ...     train_data,
      ...     test_data,
      ...     cohort_size=5,
      ...     batching=fc.data.Batching(batch_size=20),
      ...     evaluation=model,
      ...     train_rounds=3,
      ...     exports=fc.program.export_weights(),
      ...     run_dir=tempfile.mkdtemp(),
      ...     key=jax.random.key(2),
      ... )
      >>> metrics, exported = experiment.train_and_evaluate()
      >>> sorted(metrics["eval"])[:2], [file.name for file in exported[0].iterdir()]
      (['accuracy', 'loss'], ['weights.safetensors'])
      >>> int(experiment.train().round_num)  # the rounds are done, so it trains no further
      3
    """

    def __init__(
        self,
        process: LearningProcess,
        train_data: FederatedData,
        eval_data: FederatedData,
        *,
        cohort_size: int | Sampler | Callable[[int], Participation],
        batching: Batching,
        evaluation: Model | Computation | LearningProcess,
        eval_metrics: Mapping[str, Metric] | None = None,
        train_rounds: int | None = None,
        eval_steps: int | None = None,
        train_hooks: Sequence[Callable[[Round], Any]] = (),
        eval_hooks: Sequence[Callable[[EvaluationResult], Any]] = (),
        eval_delay_secs: float = 0,
        throttle_secs: float = 60,
        min_eval_frequency: int | None = 1,
        delay_by_round: bool = False,
        exports: Export | Sequence[Export] | None = None,
        predicate: Callable[[Any], bool] | None = None,
        run_dir: str | os.PathLike,
        job: Job | None = None,
        _time: Time | None = None,
        key: jax.Array,
        **run_options: Any,
    ):
        """Checks the arguments; nothing runs and nothing is written yet.

        Args:
          process: for example `fed_avg(model, optax.sgd(0.1), key=...)`.
          train_data: the population that cohorts are drawn from.
          eval_data: the held-out clients.
          cohort_size: the number of clients a round, or a function that draws them; the `sampler` of `Run`.
          batching: how the examples of a client become batches.
          evaluation: what evaluates: the model, a computation or a process; the `by` of `Evaluation`.
          eval_metrics: metrics by name; None for the model's own. The loss is always included.
          train_rounds: the number of the last round; None for no end.
          eval_steps: the number of batches at which an evaluation stops; None for no limit.
          train_hooks: called with a `Round` after each round.
          eval_hooks: called with an `EvaluationResult` after each evaluation.
          eval_delay_secs: seconds that `evaluate` and the continuous evaluations wait before they begin.
          throttle_secs: seconds from the start of one continuous evaluation to the start of the next.
          min_eval_frequency: the smallest number of rounds between two evaluations of `train_and_evaluate`, which
            evaluates only rounds that have a checkpoint; None or 0 for a single evaluation at the end.
          delay_by_round: whether worker k waits in `train()`, called without `delay_secs`, until the job has reached
            round `int(8000 * log(k + 1) * job.delay_scale)`, or the last round. Not allowed within one
            `jax.distributed` job, whose processes compute each round together.
          exports: what `train_and_evaluate` writes at its end: one `Export` or several.
          predicate: a function of the last result, which is None at first; continuous evaluation ends when it returns
            a false value. None for one that never does.
          run_dir: the folder of the run.
          job: the processes that share the experiment; None if this process is the only one.
          key: draws cohorts and shuffling. The process has its own key.
          **run_options: `checkpoints`, `releases`, `accounting`, `initial_state`, `should_retry_round`, `max_retries`
            and `progress`; see `Run`.

        Raises:
          ValueError: `process` has no `next` or no `get_model_weights`; an export is not an `Export`, or two exports
            share a name; a number is out of its range.
          TypeError: another argument is of the wrong type, or the data is not of the type that the process or the
            evaluation takes.
        """
        _check_options(run_options)
        self._time = Time() if _time is None else _time
        self._job = _checked_job(job)
        every, train_rounds = _checked_frequency(min_eval_frequency), _checked_rounds(train_rounds)
        self._process, self._train_data = process, train_data
        self.train_hooks, self.eval_hooks = train_hooks, eval_hooks
        self.exports = cast(tuple[Export, ...], exports)  # the run below checks them and makes a tuple
        self._evaluation = Evaluation(eval_data, evaluation, eval_metrics, None, eval_steps, every)
        self._arguments = {"sampler": cohort_size, "batching": batching, "rounds": train_rounds, "folder": run_dir}
        self._arguments |= {"key": key, **run_options}
        with _arguments.renamed("Experiment", _NAMES):
            run = self._run()
        assert run.evaluation is not None and run.checkpoints is not None  # every run of an experiment has them
        self.train_hooks, self.eval_hooks, self.exports = run.on_round, run.evaluation.hooks, run.exports
        self._evaluation = run.evaluation._replace(every=_on_checkpoints(every, run.checkpoints.every))
        self._eval_delay_secs = _checked_seconds("Experiment", "eval_delay_secs", eval_delay_secs)
        self._throttle_secs = _checked_seconds("Experiment", "throttle_secs", throttle_secs)
        call, repair = "Experiment(delay_by_round=...)", "write delay_by_round=True"
        self._delay_by_round, self._until = _checks.checked_switch(call, delay_by_round, repair), _until(predicate)

    def extend_train_hooks(self, hooks: Sequence[Callable[[Round], Any]]) -> None:
        """Appends functions to `train_hooks`.

        Raises:
          TypeError: a hook is not a function.
        """
        self.train_hooks = (*self.train_hooks, *_arguments.checked_functions("Experiment", "train_hooks", hooks))

    def reset_export_strategies(self, new: Export | Sequence[Export] | None = None) -> tuple[Export, ...]:
        """Replaces the `exports`.

        Args:
          new: one `Export`, several, or None for none.

        Returns:
          The previous exports.

        Raises:
          ValueError: `new` holds something other than an `Export`, or two exports share a name.
        """
        with _arguments.renamed("Experiment", _NAMES):
            old, self.exports = self.exports, _arguments.checked_exports(new, pathlib.Path(self._arguments["folder"]))
        return old

    def train(self, delay_secs: float | None = None) -> Any:
        """Trains up to round `train_rounds`, from the latest checkpoint if there is one.

        The bits are those of a run that was never interrupted. No round runs if all of them are done.

        Args:
          delay_secs: seconds to wait first; None for no wait, or for that of `delay_by_round`.

        Returns:
          The state after the last round.

        Raises:
          CheckpointTypeError: the latest checkpoint is of another model or algorithm.
          BlockingIOError: another process is training in this folder.
        """
        if delay_secs is not None:
            self._wait("train", delay_secs)
        elif self._delay_by_round:
            self._wait_for_round()
        return self._run(evaluation=None, exports=()).train().state

    def evaluate(self, delay_secs: float | None = None) -> Any:
        """Evaluates the latest checkpoint on the held-out clients.

        Args:
          delay_secs: seconds to wait first; None for `eval_delay_secs`.

        Returns:
          What the evaluation measures, for example `{"eval": {"loss": ..., "accuracy": ...}}`.

        Raises:
          FileNotFoundError: there is no checkpoint.
        """
        self._wait("evaluate", self._eval_delay_secs if delay_secs is None else delay_secs)
        return self._run().evaluate()

    def train_and_evaluate(self) -> tuple[Any, list[pathlib.Path]]:
        """Trains, evaluates as it trains, and exports at the end. It begins at once, whatever `delay_by_round` is.

        The weights after the last round are always evaluated, exactly once. The history of the run holds the metrics of
        each evaluation, under `held_out/`.

        Returns:
          The metrics of the last evaluation, and the folders that the exports wrote, in order.
        """
        result = self._run().train()
        return result.held_out, list(result.exports)

    def continuous_eval(
        self,
        delay_secs: float | None = None,
        throttle_delay_secs: float | None = None,
        evaluate_checkpoint_only_once: bool = True,
    ) -> Any:
        """Evaluates each new checkpoint on the held-out clients, while another process trains.

        It ends after the checkpoint of round `train_rounds`, or when `predicate` returns a false value. If checkpoints
        come faster than they can be evaluated, only the latest one is. While there is no new one, the result is `{}`,
        and a warning is logged at most once in ten minutes.

        Args:
          delay_secs: seconds to wait first; None for `eval_delay_secs`.
          throttle_delay_secs: seconds from the start of one evaluation to the start of the next; None for
            `throttle_secs`.
          evaluate_checkpoint_only_once: False evaluates the latest checkpoint again if there is no new one.

        Returns:
          The metrics of the last evaluation; `{}` if there was none.
        """
        return self._watch(self._run(), delay_secs, throttle_delay_secs, again=not evaluate_checkpoint_only_once)

    def continuous_eval_on_train_data(
        self, delay_secs: float | None = None, throttle_delay_secs: float | None = None
    ) -> Any:
        """Evaluates each new checkpoint on the training clients; otherwise like `continuous_eval`."""
        names = {"name": "evaluation_on_train_data", "hooks": self.eval_hooks}
        run = self._run(evaluation=self._evaluation._replace(data=self._train_data, **names))
        return self._watch(run, delay_secs, throttle_delay_secs, again=False)

    def run_std_server(self) -> None:
        """Trains as the coordinator of a `jax.distributed` job, until the job has reached round `train_rounds`.

        All processes of a job compute each round together, on all of their devices. The coordinator therefore trains as
        well, and writes the files, while the others call `train()`.

        JAX must be initialized with `process_id=0` before its first use, and therefore before the experiment is built.
        If it is not initialized yet, this method tries to do so with the settings in `job`.

        Raises:
          ValueError: a setting of the job is missing, or this process has joined with another process id.
        """
        join_as_coordinator(self._job)
        self.train()

    def test(self) -> Any:
        """Tries a round with one client and one batch, and an evaluation; writes nothing to the folder.

        The hooks are called; nothing is exported.

        Returns:
          What the evaluation measures.
        """
        return self._run().test()

    def _run(self, **changes: Any) -> Run:
        """A new run for a method, since hooks and exports may have changed since the last one."""
        changeable = {
            "evaluation": self._evaluation._replace(hooks=self.eval_hooks),
            "exports": () if self.exports is None else self.exports,
            "on_round": self.train_hooks,
        }
        run = Run(self._process, self._train_data, **{**changeable, **self._arguments, **changes})
        run._time, run._writes = self._time, self._job.worker == 0
        return run

    def _watch(self, run: Run, delay_secs: float | None, throttle: float | None, again: bool) -> Any:
        throttle = self._throttle_secs if throttle is None else throttle
        _checked_seconds("continuous_eval", "throttle_delay_secs", throttle)
        self._wait("continuous_eval", self._eval_delay_secs if delay_secs is None else delay_secs)
        return run.watch(throttle, self._until, again)

    def _wait(self, method: str, seconds: float) -> None:
        if _checked_seconds(method, "delay_secs", seconds) > 0:
            self._time.sleep(seconds)

    def _wait_for_round(self) -> None:
        """Waits until the job has reached the round with which this worker begins."""
        if jax.process_count() > 1:
            raise ValueError(
                "Experiment(delay_by_round=True) makes a worker wait for the rounds of others, but the "
                f"{jax.process_count()} processes of a jax.distributed job compute each round together; leave it out"
            )
        run = self._run()
        number = int(_ROUNDS_OF_DELAY * math.log(self._job.worker + 1) * self._job.delay_scale)
        number = number if run.last_round is None else min(number, run.last_round)
        assert run.checkpoints is not None
        wait_for_round(run.checkpoints, number, time=self._time, poll_secs=_POLL_SECONDS)


def _on_checkpoints(every: int | None, checkpoint_every: int) -> int | None:
    """`every`, rounded up to a multiple of `checkpoint_every`."""
    return None if every is None else -(-every // checkpoint_every) * checkpoint_every


def _until(predicate: Any) -> Callable[[Any], bool] | None:
    if predicate is None:
        return None
    repair = "for example lambda result: result is None or time.monotonic() < end"
    _checks.check_function("Experiment(predicate=...)", predicate, "of the last result", repair)
    _checks.check_not_async("Experiment(predicate=...)", predicate)
    return lambda result: not predicate(result)


def _checked_rounds(value: Any) -> int | None:
    """The number of rounds. An `EarlyStopping` is not accepted, since `train` does not evaluate."""
    if value is None:
        return None
    return _checks.checked_integer("Experiment(train_rounds=...)", value, 1, "write train_rounds=10")


def _checked_frequency(value: Any) -> int | None:
    """The rounds between two evaluations; None for a single evaluation at the end."""
    if value is None:
        return None
    repair = "write min_eval_frequency=10, or 0 for one evaluation at the end"
    return _checks.checked_integer("Experiment(min_eval_frequency=...)", value, 0, repair) or None


def _checked_seconds(method: str, name: str, value: Any) -> float:
    return _checks.checked_number(f"{method}({name}=...)", value, _checks.NOT_NEGATIVE, f"write {name}=60")


def _checked_job(job: Any) -> Job:
    if job is None:
        return Job()
    if not isinstance(job, Job):
        raise TypeError(f"Experiment(job=...) must be a Job, got {job!r}; use fc.program.Job('host0:1234', 2)")
    worker = _checks.checked_integer("Job(worker=...)", job.worker, 0, "write worker=0")
    scale, repair = job.delay_scale, "write delay_scale=1.0"
    scale = _checks.checked_number("Job(delay_scale=...)", scale, _checks.NOT_NEGATIVE, repair)
    return job._replace(worker=worker, delay_scale=scale)


def _check_options(options: dict[str, Any]) -> None:
    unknown = [name for name in options if name not in _RUN_OPTIONS]
    if unknown:
        raise TypeError(
            f"Experiment takes these arguments of Run: {', '.join(_RUN_OPTIONS)}; got {', '.join(unknown)}; to set "
            "others, build a fc.program.Run"
        )
