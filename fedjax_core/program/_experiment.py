"""An experiment: training, evaluation and export of one process in one folder."""

import functools
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from fedjax_core.computations import Computation
from fedjax_core.contracts import Metric, Model
from fedjax_core.data import Batching, FederatedData, Participation, Sampler, sample_clients
from fedjax_core.program import _checks
from fedjax_core.program import _experiment_arguments as _arguments
from fedjax_core.program._atomic import remove_leftovers, write_folder_atomically
from fedjax_core.program._checkpoints import Checkpoints
from fedjax_core.program._cluster import Cluster, join_as_coordinator
from fedjax_core.program._evaluating import Evaluation, Evaluator
from fedjax_core.program._experiment_config import checked_config, save_config
from fedjax_core.program._exports import Export
from fedjax_core.program._history import Record, flatten_metrics
from fedjax_core.program._loop import (
    Round,
    Start,
    TrainResult,
    cohorts,
    is_saved,
    run_identity_of,
    run_rounds,
    start_of,
    writing,
)
from fedjax_core.program._releases import ReleaseManager
from fedjax_core.program._run_folder import RunFolder
from fedjax_core.program._watching import Time, wait_for_round, watch
from fedjax_core.templates import LearningProcess

_POLL_SECONDS = 1.0
_ROUNDS_OF_DELAY = 8000.0


class Experiment:
    """Training, evaluation and export of one process in one folder.

    The folder is what the methods share: `train` leaves checkpoints in it, in one process, and the others find
    them there, in that process or another, now or after a crash. It holds

    ```
    experiment.json            the configuration, versions and devices
    metrics.csv, weights.npz, curves.png   as of `RunFolder`
    checkpoints/               of the training, from which it goes on
    evaluation/                metrics.jsonl, a line a checkpoint; the states of a `fed_eval` process
    evaluation_on_train_data/  the same of `continuous_eval_on_train_data`
    exports/<name>/            what the exports write
    ```

    Of several processes of one `jax.distributed` job, which all call the same methods, the first one writes.
    Beside a process that trains one may evaluate, and one may evaluate on the training data; a second one that
    wants to train is refused.

    Attributes:
      config: the plain values, an `ExperimentConfig`.
      train_hooks: functions of a `Round`, called after each round.
      eval_hooks: functions of an `Evaluation`, called after each evaluation.
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
      ...     train_rounds=3,
      ...     model=model,
      ...     key=jax.random.key(2),
      ...     exports=fc.program.export_weights(),
      ...     run_dir=tempfile.mkdtemp(),
      ... )
      >>> metrics, exported = experiment.train_and_evaluate()
      >>> sorted(metrics["eval"])[:2], [file.name for file in exported[0].iterdir()]
      (['accuracy', 'loss'], ['weights.safetensors'])
      >>> int(experiment.train().round_num)  # it has got there and does nothing
      3
    """

    def __init__(
        self,
        process: LearningProcess,
        train_data: FederatedData,
        eval_data: FederatedData,
        *,
        cohort_size: int | None = None,
        batching: Batching,
        key: jax.Array,
        run_dir: str | os.PathLike,
        model: Model | None = None,
        evaluation: Computation | LearningProcess | None = None,
        eval_metrics: Mapping[str, Metric] | None = None,
        eval_batching: Batching | None = None,
        participants: Sampler | Callable[[int], Participation] | None = None,
        train_rounds: int | None = None,
        eval_steps: int | None = None,
        train_hooks: Sequence[Callable[[Round], Any]] = (),
        eval_hooks: Sequence[Callable[[Evaluation], Any]] = (),
        eval_delay_secs: float = 0,
        throttle_secs: float = 60,
        min_eval_frequency: int | None = 1,
        delay_by_round: bool = False,
        delay_scale: float = 1.0,
        worker: int = 0,
        exports: Export | Sequence[Export] | None = None,
        predicate: Callable[[Any], bool] | None = None,
        checkpoints: Checkpoints | None = None,
        cluster: Cluster | None = None,
        release_manager: ReleaseManager | None = None,
        progress: bool = True,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """Checks the arguments, and neither runs nor writes anything.

        Args:
          process: for example `fed_avg(model, optax.sgd(0.1), key=...)`.
          train_data: the population that cohorts are drawn from.
          eval_data: the held-out clients.
          cohort_size: clients a round, drawn uniformly without replacement. Leave it out with `participants`.
          batching: how the examples of a client become batches.
          key: draws cohorts and shuffling; its bits are `key_data` in the configuration. The process has a key
            of its own.
          run_dir: the folder.
          model: what is evaluated; not needed with `evaluation`.
          evaluation: None is `federated_evaluation(model)` with `eval_metrics`. Else such a computation, or a
            process such as `fed_eval(model, ...)`, whose state after each checkpoint is kept in the folder.
          eval_metrics: metrics by name; None for the model's. Its loss is always among them.
          eval_batching: of an evaluation; None for batches of the size of `batching`, in order.
          participants: round number -> the ids of the clients that take part, such as `data.uniform_sampler(...)`;
            or a `Participation`, as of `data.participation(...)`, whose skipped rounds leave the state as it is. A pure
            function of the number: it is asked while the round before computes, and again by a run that goes on.
          train_rounds: the number of the last round; None for ever.
          eval_steps: batches of an evaluation, of one client after another; None for all.
          train_hooks: called with a `Round` after each round.
          eval_hooks: called with an `Evaluation` after each evaluation.
          eval_delay_secs: seconds to wait before an evaluation that a method begins with.
          throttle_secs: seconds from the start of one continuous evaluation to the next.
          min_eval_frequency: for `train_and_evaluate`, the least number of rounds from one evaluation to the next;
            None or 0 for only one at the end.
          delay_by_round: whether worker k begins to train when the job has reached the round
            `int(8000 * log(k + 1) * delay_scale)`, or its last one. Not within one `jax.distributed` job,
            whose processes compute each round together.
          delay_scale: see there.
          worker: k, the number of this worker, from 0. Only worker 0 writes.
          exports: what `train_and_evaluate` writes at its end: one `Export`, or several.
          predicate: for continuous evaluation: is given the last result, None at first, and ends it by a false value.
          checkpoints: when there are some and which are kept; None is `Checkpoints(run_dir / "checkpoints")`.
          cluster: the processes of the job, for `run_std_server`; not needed where `jax.distributed` is initialized.
          release_manager: gets the metrics of each round, see `train`.
          progress: whether to show a progress bar on standard error if that is a terminal.
          clock: gives the time in seconds.
          sleep: waits for some seconds.

        Raises:
          ValueError: `process` has no `next` or no `get_model_weights`; an export is no `Export`, or two have one
            name; a number is out of its range; not exactly one of `cohort_size` and `participants`, or neither
            `model` nor `evaluation`, is given.
          TypeError: another argument is of another kind than described, or the data is not of the type that the
            process or the evaluation takes.
        """
        _arguments.check_process(process)
        _arguments.check_participants(cohort_size, participants)
        _checks.check_data("Experiment", "train_data", train_data, "the process", process.next)
        if cohort_size is not None:
            cohort_size = _checks.checked_count("Experiment", "cohort_size", cohort_size)
            _checks.check_cohort_size("Experiment", cohort_size, train_data)
        _checks.check_key("Experiment", key)
        _checks.check_outlets("Experiment", checkpoints, release_manager)
        self.config = checked_config(
            run_dir=run_dir,
            key=key,
            cohort_size=cohort_size,
            batching=batching,
            eval_batching=eval_batching,
            train_rounds=train_rounds,
            eval_steps=eval_steps,
            eval_delay_secs=eval_delay_secs,
            throttle_secs=throttle_secs,
            min_eval_frequency=min_eval_frequency,
            delay_by_round=delay_by_round,
            delay_scale=delay_scale,
            worker=worker,
        )
        self.train_hooks = _arguments.checked_functions("train_hooks", train_hooks)
        self.eval_hooks = _arguments.checked_functions("eval_hooks", eval_hooks)
        self.exports = _arguments.checked_exports(exports)
        self._process = process
        self._train_data, self._eval_data = train_data, eval_data
        self._key, self._participants = key, participants
        self._evaluation = _arguments.checked_evaluation(evaluation, model, eval_metrics)
        _checks.check_data(
            "Experiment", "eval_data", eval_data, "the evaluation", _arguments.round_of(self._evaluation)
        )
        _arguments.check_weights(process, self._evaluation)
        self._predicate = _arguments.checked_predicate(predicate)
        self._checkpoints = Checkpoints(self._path / "checkpoints") if checkpoints is None else checkpoints
        self._cluster = _arguments.checked_cluster(cluster)
        _checks.check_switch("Experiment", "progress", progress)
        _arguments.check_time(clock=clock, sleep=sleep)
        self._release_manager, self._progress = release_manager, progress
        self._time = Time(clock, sleep)

    def extend_train_hooks(self, hooks: Sequence[Callable[[Round], Any]]) -> None:
        """Appends to the `train_hooks`.

        Raises:
          TypeError: one is no function.
        """
        self.train_hooks += _arguments.checked_functions("train_hooks", hooks)

    def reset_export_strategies(self, new: Export | Sequence[Export] | None = None) -> tuple[Export, ...]:
        """Sets the `exports`.

        Args:
          new: one, several or none.

        Returns:
          Those before.

        Raises:
          ValueError: one is no `Export`.
        """
        old, self.exports = self.exports, _arguments.checked_exports(new)
        return old

    def train(self, delay_secs: float | None = None) -> Any:
        """Trains up to round `train_rounds`, from the latest checkpoint where there is one.

        The bits are those of a run that was never interrupted. If the rounds are behind it, nothing is done.

        Args:
          delay_secs: waits before; None for `delay_by_round`, or not at all.

        Returns:
          The state after the last round.

        Raises:
          CheckpointTypeError: the latest checkpoint is of another model or algorithm.
          BlockingIOError: another process is training in this folder.
        """
        self._wait_to_train(delay_secs)
        return self._run(self._start(), lambda number, state: None).state

    def evaluate(self, delay_secs: float | None = None) -> Any:
        """Evaluates the latest checkpoint on the held-out clients.

        Args:
          delay_secs: waits before; None for `eval_delay_secs`.

        Returns:
          What the evaluation measures, for example `{"eval": {"loss": ..., "accuracy": ...}}`.

        Raises:
          FileNotFoundError: there is no checkpoint.
        """
        self._wait("evaluate", self.config.eval_delay_secs if delay_secs is None else delay_secs)
        checkpoint = self._checkpoints.restore(self._process.initialize())
        if checkpoint is None:
            raise FileNotFoundError(f"there is no checkpoint to evaluate in {self._checkpoints.folder}; train() first")
        return self._evaluated(self._held_out, checkpoint.round, checkpoint.state)

    def train_and_evaluate(self) -> tuple[Any, list[pathlib.Path]]:
        """Trains, and evaluates new checkpoints in between: `min_eval_frequency` rounds after the last time.

        The weights after the last round are evaluated always, and once. What was evaluated is in the history of
        the run too, under `held_out/`.

        Returns:
          The metrics of the last evaluation, and the folders that the exports wrote, in their order.
        """
        self._wait_to_train(None)
        start, metrics = self._start(), None
        previous = max((record.round for record in start.history.records if record.held_out), default=0)

        def evaluate(number: int, state: Any) -> Any:
            nonlocal metrics, previous
            if not self._is_due(number, previous):
                return None
            metrics, previous = self._evaluated(self._held_out, number, state), number
            return metrics

        result = self._run(start, evaluate)
        if metrics is None:
            metrics = self._evaluated(self._held_out, start.completed, result.state)
        weights = self._process.get_model_weights(result.state)
        return metrics, [self._exported(export, weights, metrics) for export in self.exports]

    def continuous_eval(
        self,
        delay_secs: float | None = None,
        throttle_delay_secs: float | None = None,
        evaluate_checkpoint_only_once: bool = True,
    ) -> Any:
        """Evaluates the latest checkpoint on the held-out clients whenever there is a new one, in a process of its own.

        It ends after a checkpoint of round `train_rounds`, or when the `predicate` says so. Checkpoints that come
        faster than they can be evaluated are passed over. Where there is no new one the result is `{}`, and a
        warning is logged at most once in ten minutes.

        Args:
          delay_secs: waits before; None for `eval_delay_secs`.
          throttle_delay_secs: seconds from the start of one evaluation to the next; None for `throttle_secs`.
          evaluate_checkpoint_only_once: False evaluates the latest one again if there is no new one.

        Returns:
          The metrics of the last evaluation, `{}` if there was none.
        """
        return self._watch(self._held_out, delay_secs, throttle_delay_secs, evaluate_checkpoint_only_once)

    def continuous_eval_on_train_data(
        self, delay_secs: float | None = None, throttle_delay_secs: float | None = None
    ) -> Any:
        """`continuous_eval` on the training clients."""
        return self._watch(self._on_train_data, delay_secs, throttle_delay_secs, only_once=True)

    def run_std_server(self) -> None:
        """Is the coordinator of a `jax.distributed` job, until the job has reached round `train_rounds`.

        All processes of a job compute its rounds together, with their devices. So the coordinator waits for the job by
        taking its part, and writes the files, while the others call `train()`.

        JAX must be initialized as `process_id=0` before its first use, which is before there is an experiment; where
        it is not, it is tried by `cluster`.

        Raises:
          ValueError: a setting of the cluster is missing, or this process has joined as another one.
        """
        join_as_coordinator(self._cluster)
        self.train()

    def test(self) -> Any:
        """Tries everything: a round with one client and one batch, and an evaluation. Leaves nothing in the folder.

        Hooks are called, exports are not.

        Returns:
          What the evaluation measures.
        """
        data, begin = self._train_data, self._time.clock()
        clients = [i for i, size in zip(data.client_ids, data.sizes) if size][:1]
        cohort = data.cohort(clients, self.config.batching, key=self._key, max_steps=1)
        state, metrics = self._process.next(self._process.initialize(), cohort)
        seconds = self._time.clock() - begin
        self._tell(Round(1, state, metrics, None, Record(1, seconds, seconds, 1, flatten_metrics(metrics), {})))
        return self._evaluated(self._evaluator(self._eval_data, None), 1, state)

    @property
    def _path(self) -> pathlib.Path:
        return pathlib.Path(self.config.run_dir)

    @property
    def _writes(self) -> bool:
        return jax.process_index() == 0 and self.config.worker == 0

    @functools.cached_property
    def _held_out(self) -> Evaluator:
        return self._evaluator(self._eval_data, self._path / "evaluation")

    @functools.cached_property
    def _on_train_data(self) -> Evaluator:
        return self._evaluator(self._train_data, self._path / "evaluation_on_train_data")

    def _evaluator(self, data: FederatedData, folder: pathlib.Path | None) -> Evaluator:
        folder = folder if self.config.worker == 0 else None
        return Evaluator(self._evaluation, data, self.config.eval_batching, self.config.eval_steps, folder)

    def _start(self) -> Start:
        config = self.config
        run_identity = run_identity_of(self._key, config.cohort_size, self._train_data, config.batching)
        return start_of(self._process, self._checkpoints, run_identity)

    def _run(self, start: Start, evaluate: Callable[[int, Any], Any]) -> TrainResult:
        """The rounds that are left; with none left nothing is written."""
        config, data = self.config, self._train_data
        if config.train_rounds is not None and start.completed >= config.train_rounds:
            return TrainResult(start.state, start.history)
        ask = functools.partial(sample_clients, ids=data.client_ids, cohort_size=config.cohort_size, key=self._key)
        checkpoints = self._checkpoints if config.worker == 0 else None
        with writing(self._path if self._writes else None, checkpoints):
            return run_rounds(
                start,
                config.train_rounds,
                cohorts(self._participants or ask, data, config.batching, self._key),
                get_weights=self._process.get_model_weights,
                evaluate=evaluate,
                on_round=self._tell,
                folder=self._folder() if self._writes else None,
                checkpoints=checkpoints,
                release_manager=self._release_manager if self._writes else None,
                progress=self._progress and self._writes,
                clock=self._time.clock,
            )

    def _folder(self) -> RunFolder:
        folder = RunFolder(self._path, resume=True)
        save_config(folder, self.config, self._process.state_type.member)
        return folder

    def _tell(self, told: Round) -> None:
        for hook in self.train_hooks:
            hook(told)

    def _is_due(self, number: int, previous: int) -> bool:
        """Whether to evaluate after a round, the last evaluation being after an earlier one."""
        last, every = self.config.train_rounds, self.config.min_eval_frequency
        if number == last:
            return True
        return every > 0 and is_saved(self._checkpoints, number, last) and number - previous >= every

    def _evaluated(self, evaluator: Evaluator, number: int, state: Any) -> Any:
        metrics = evaluator(number, self._process.get_model_weights(state))
        for hook in self.eval_hooks:
            hook(Evaluation(number, metrics))
        return metrics

    def _exported(self, export: Export, weights: Any, metrics: Any) -> pathlib.Path:
        path = self._path / "exports" / export.name
        if self._writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent)
            write_folder_atomically(path, lambda folder: export.write(folder, weights, metrics))
        return path

    def _watch(self, evaluator: Evaluator, delay_secs: float | None, throttle: float | None, only_once: bool) -> Any:
        config = self.config
        throttle = config.throttle_secs if throttle is None else throttle
        _checks.checked_not_negative("continuous_eval", "throttle_delay_secs", throttle)
        self._wait("continuous_eval", config.eval_delay_secs if delay_secs is None else delay_secs)
        return watch(
            self._checkpoints,
            self._process.initialize(),
            lambda checkpoint: self._evaluated(evaluator, checkpoint.round, checkpoint.state),
            time=self._time,
            throttle_secs=throttle,
            only_once=only_once,
            last_round=config.train_rounds,
            predicate=self._predicate,
        )

    def _wait(self, method: str, seconds: float) -> None:
        if _checks.checked_not_negative(method, "delay_secs", seconds) > 0:
            self._time.sleep(seconds)

    def _wait_to_train(self, delay_secs: float | None) -> None:
        self._wait("train", 0 if delay_secs is None else delay_secs)
        config = self.config
        if not config.delay_by_round:
            return
        if jax.process_count() > 1:
            raise ValueError(
                "Experiment(delay_by_round=True) lets a worker wait for the rounds of others, and the processes of a "
                f"jax.distributed job, here {jax.process_count()}, compute each round together; leave it out"
            )
        number = int(_ROUNDS_OF_DELAY * math.log(config.worker + 1) * config.delay_scale)
        number = number if config.train_rounds is None else min(number, config.train_rounds)
        wait_for_round(self._checkpoints, number, time=self._time, poll_secs=_POLL_SECONDS)
