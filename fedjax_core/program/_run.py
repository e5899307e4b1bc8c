"""A run: rounds of a learning process, and the files that they leave."""

import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from fedjax_core import _checks
from fedjax_core.data import Batching, FederatedData, Participation, Sampler, sample_clients
from fedjax_core.privacy import Accounting
from fedjax_core.program import _outlets
from fedjax_core.program import _run_arguments as _arguments
from fedjax_core.program._checkpoints import Checkpoint, Checkpoints
from fedjax_core.program._checks import check_batching, check_data
from fedjax_core.program._early_stopping import EarlyStopping, Ending
from fedjax_core.program._estimate import Estimate
from fedjax_core.program._evaluating import Evaluation, Evaluator, measuring
from fedjax_core.program._exports import Export
from fedjax_core.program._files import remove_leftovers
from fedjax_core.program._locks import sole_writer
from fedjax_core.program._loop import RoundCohort, cohort_drawer, drawn_once, run_rounds
from fedjax_core.program._outlets import Outlet, Round
from fedjax_core.program._releases import ReleaseManager
from fedjax_core.program._retrying import checked_retrying
from fedjax_core.program._run_end import TrainResult, finish_if_unfinished, write_export
from fedjax_core.program._run_folder import RunFolder
from fedjax_core.program._run_settings import RunSettings, save_settings
from fedjax_core.program._run_start import RunStart, environment_of, first_state, run_start, what_runs
from fedjax_core.program._trial import next_cohort, one_batch, try_rounds, typical_seconds
from fedjax_core.program._watching import Time, watch
from fedjax_core.templates import LearningProcess, LearningProcessOutput
from fedjax_core.types import member_of


class Run:
    """Rounds of a learning process, each with newly drawn clients, and the files that they leave.

    A run is a function of its arguments. Round `r` (from 1) draws its clients with `sampler` and shuffles with
    `fold_in(key, r)`. With a folder or with checkpoints, it can be interrupted or killed at any time: `train()` resumes
    after the latest checkpoint, and ends with the bits of a run that was never interrupted. The folder holds

    ```
    run.json                   the settings, versions and devices
    metrics.csv                a line for each round, added after the round
    weights.npz, curves.png    written at the end, also if an error or Ctrl-C ends the run after some rounds
    checkpoints/               what the run resumes from
    evaluation/                metrics.jsonl, a line for each evaluation; the states of a `fed_eval` process
    exports/<name>/            what the exports write
    ```

    In a `jax.distributed` job, all processes build the same run and call the same methods, and the first process
    writes, releases and shows progress. While a run is training in a folder, a second run that would write to it is
    refused; `evaluate` and `watch` may run at the same time, in any process.

    The arguments are also attributes, checked and complete: `folder` is a `pathlib.Path`, `checkpoints` by default
    those in the folder, `evaluation.by` a computation or a process; `releases`, `exports` and `on_round` are tuples.

    Attributes:
      settings: the plain values among the arguments, a `RunSettings`.
      last_round: the number of the last round, if the run does not end earlier; None for no end.

    Example:
      >>> import jax, optax, tempfile, fedjax_core as fc
      >>> data, test_data = fc.data.synthetic_iid(num_clients=20, key=jax.random.key(0)).split_examples(0.8)
      >>> model = fc.models.logistic_regression(60, 10, metrics={"accuracy": fc.metrics.accuracy()})
      >>> folder = tempfile.mkdtemp()
      >>> def run(rounds):
      ...     return Run(
      ...         fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(1)),
      ...         data,
      ...         sampler=5,
      ...         batching=fc.data.Batching(batch_size=20),
      ...         rounds=rounds,
      ...         folder=folder,
      ...         evaluation=fc.program.Evaluation(test_data, model),
      ...         exports=fc.program.export_weights(),
      ...         key=jax.random.key(2),
      ...     )
      >>> result = run(rounds=2).train()
      >>> result = run(rounds=4).train()  # continues with round 3
      >>> len(result.history), sorted(result.held_out["eval"])[:2], [path.name for path in result.exports]
      (4, ['accuracy', 'loss'], ['weights'])
    """

    _time = Time()
    _writes = True

    def __init__(
        self,
        process: LearningProcess,
        train_data: FederatedData,
        *,
        sampler: int | Sampler | Callable[[int], Participation],
        batching: Batching,
        rounds: int | EarlyStopping | None,
        folder: str | os.PathLike | RunFolder | None = None,
        evaluation: Evaluation | None = None,
        checkpoints: Checkpoints | None = None,
        releases: ReleaseManager | Sequence[ReleaseManager] = (),
        exports: Export | Sequence[Export] = (),
        accounting: Accounting | None = None,
        initial_state: Any = None,
        should_retry_round: Callable[[LearningProcessOutput], bool] | None = None,
        max_retries: int = 1,
        on_round: Callable[[Round], Any] | Sequence[Callable[[Round], Any]] = (),
        progress: bool = True,
        key: jax.Array,
    ):
        """Checks the arguments; nothing runs and nothing is written yet.

        Args:
          process: for example `fed_avg(model, optax.sgd(0.1), key=...)`.
          train_data: the population that cohorts are drawn from.
          sampler: the number of clients a round, drawn uniformly without replacement by
            `sample_clients(r, ..., key=key)`; or a function from the round number to the ids of the clients, such as
            `data.poisson_sampler(...)`, or to a `Participation`, such as `data.participation(...)`, whose skipped
            rounds leave the state unchanged. The function must be pure: it is called for a round while the previous one
            computes, and again by a run that resumes.
          batching: how the examples of a client become batches.
          rounds: the number of the last round, counting those before the latest checkpoint; an `EarlyStopping`, which
            ends the run when a metric no longer improves; None for no end.
          folder: where the run writes its files; None to write none. A run that is already there is resumed, unless a
            `RunFolder(...)` forbids it.
          evaluation: how to evaluate on held-out clients, for example `Evaluation(test_data, model)`.
          checkpoints: where and how often checkpoints are written, and which are kept; None for
            `Checkpoints(folder / "checkpoints")`, or for no checkpoints if there is no folder. If the engine chooses
            the number of lanes, a resumed run takes the checkpoint's.
          releases: one or several managers, which receive after each round `seconds`, `round_seconds`, `num_clients`,
            what the process measured and, under `held_out/`, what the evaluation measured. List files before managers
            that may fail.
          exports: what to write into the folder at the end of the run.
          accounting: the privacy cost of the rounds, as `fc.privacy.accounting(...)` computes it for the process's
            `private_mean`; each record then has the metric `privacy/epsilon`. Its noise must be that of the process,
            and its sampling that of `sampler`. For a function without the attribute `sampling`, which declares it, the
            sampling must be `everyone()`: no other one that draws a client at most once a round costs more.
          initial_state: the state with which the first round begins; None for `process.initialize()`. To fine-tune the
            weights of another run, give `process.set_model_weights(process.initialize(), weights)`, with
            `load_weights(path, like=...)`. A run that has a checkpoint resumes from it, and warns if the run began with
            another state.
          should_retry_round: a function of the `LearningProcessOutput(state, metrics)` of a round that returns whether
            to try it again. The round then begins anew from the state before it, with the clients and the shuffling of
            the next number: with one retry in round 3, round 4 gets those of number 5. Records have the metric
            `program_metrics/num_retries`. It is called once after each try, also by a run that resumes, and must not
            come with an accounting; with `private_mean`, a try that is given up has a privacy cost and its noise is
            drawn again.
          max_retries: how often a round is tried again at most; it then counts, with a warning.
          on_round: a function, or several, called with a `Round` after each round.
          progress: whether to show a progress bar on standard error if that is a terminal.
          key: draws cohorts and shuffling. The process has its own key.

        Raises:
          TypeError: an argument is of the wrong type, or the data is not of the type that the process or the evaluation
            takes.
          ValueError: a number is out of its range; `process` has no `next` or no `get_model_weights`; an export is
            not an `Export`, or there are exports but no folder; `accounting` is for another noise or sampling; nothing
            measures the metric of an early stopping.
        """
        _arguments.check_process(process)
        check_data("Run", "train_data", train_data, "the process", process.next)
        sampler = _arguments.checked_sampler(sampler, train_data)
        check_batching("Run", "batching", batching)
        _checks.check_key("Run(key=...)", key)
        rounds = _arguments.checked_rounds(rounds)
        evaluation = _arguments.checked_evaluation(evaluation, process, batching)
        self._retrying = checked_retrying(should_retry_round, max_retries, accounting)
        self.should_retry_round, self.max_retries = self._retrying
        _arguments.check_accounting(accounting, process, sampler, len(train_data))
        _arguments.check_early_stopping(rounds, sampler, process, evaluation, accounting)
        initial_state = _arguments.checked_initial_state(initial_state, process)
        self._folder = _arguments.checked_folder(folder)
        self.folder = self._folder.path if isinstance(self._folder, RunFolder) else self._folder
        self.checkpoints = _arguments.checked_checkpoints(checkpoints, self.folder)
        self.releases = _arguments.checked_releases(releases)
        self.exports = _arguments.checked_exports(exports, self.folder)
        self.on_round = _arguments.checked_functions("Run", "on_round", on_round)
        self.process, self.train_data, self.sampler, self._key = process, train_data, sampler, key
        self.evaluation, self.accounting, self.initial_state = evaluation, accounting, initial_state
        self._progress = _checks.checked_switch("Run(progress=...)", progress, "write progress=True")
        self.settings = self._settings(batching, rounds, key)
        self._trained = None

    def train(self) -> TrainResult:
        """Runs the remaining rounds, from the latest checkpoint if there is one.

        If the run is over, no round runs. `train` then writes what a process that was killed at the very end did not
        write, and evaluates and exports again if the run has an evaluation and exports.

        Returns:
          A `TrainResult(state, history, held_out, exports)`.

        Warns:
          UserWarning: the next rounds are not those of an uninterrupted run, because settings, versions or devices have
            changed since the checkpoint, the process or the data are told apart from those of the checkpoint (another
            learning rate, optimizer or aggregator), or the run began with another state; a round left out all of its
            clients that have examples; a round counts although `should_retry_round` asks for another try; or the first
            round did not measure the metric of an early stopping.

        Raises:
          CheckpointTypeError: the latest checkpoint is of another model or algorithm.
          BlockingIOError: another run is writing to the folder or to that of the checkpoints.
          OSError: a file cannot be written.
          ValueError: there is an accounting, and a round draws a client twice, or the rounds of the checkpoint had
            another noise or sampling.
        """
        with self._writing():
            start = run_start(
                self.process, self.initial_state, self.checkpoints, self._identity(), self.accounting is not None
            )
            ending = self._ending()
            folder = self._open_folder()
            if ending.replay(start.history, start.completed):
                return self._make_up(start, folder)
            if folder is not None:
                save_settings(folder, self.settings, member_of(self.process.state_type))
            last = run_rounds(
                start,
                ending,
                self._draw,
                evaluate=self._evaluate_if_due,
                added=self._spent,
                retrying=self._retrying,
                outlets=self._outlets(start, ending, folder),
                clock=self._time.clock,
            )
            self._trained = last.number, last.state
            return TrainResult(last.state, start.history, last.held_out, self._export(last.state, last.held_out))

    def evaluate(self) -> Any:
        """Evaluates the latest checkpoint, or the state that `train` ended with if there is no checkpoint.

        Returns:
          What the evaluation measures, for example `{"eval": {"loss": ..., "accuracy": ...}}`.

        Raises:
          ValueError: the run has no evaluation.
          FileNotFoundError: there is neither a checkpoint nor a state that `train` ended with.
        """
        evaluator, checkpoint = self._evaluator, self.restore()
        if checkpoint is not None:
            return evaluator(checkpoint.round, checkpoint.state)
        if self._trained is None:
            where = "" if self.checkpoints is None else f" in {self.checkpoints.folder}"
            raise FileNotFoundError(f"there is no checkpoint to evaluate{where}; train() first")
        return evaluator(*self._trained)

    def watch(self, every_secs: float = 60.0, until: Callable[[Any], bool] | None = None, again: bool = False) -> Any:
        """Evaluates each new checkpoint that another process writes, until that process's run is over.

        If checkpoints come faster than they can be evaluated, only the latest one is. While there is no new one, the
        result is `{}`, and a warning is logged at most once in ten minutes.

        Args:
          every_secs: seconds from one look for a new checkpoint to the next.
          until: a function of the last result, which is None at first; the watch ends when it returns a true value.
          again: whether to evaluate the latest checkpoint again if there is no new one.

        Returns:
          The metrics of the last evaluation; `{}` if there was none.

        Raises:
          ValueError: the run has no evaluation or no checkpoints, or `every_secs` is negative.
        """
        _checks.checked_number("watch(every_secs=...)", every_secs, _checks.NOT_NEGATIVE, "write every_secs=60")
        _checks.check_not_async("watch(until=...)", until)
        if self.checkpoints is None:
            raise ValueError("watch() waits for checkpoints, got a run without them; give it a folder=...")
        evaluator = self._evaluator
        return watch(
            self.checkpoints,
            self._first_state(),
            lambda checkpoint: evaluator(checkpoint.round, checkpoint.state),
            time=self._time,
            throttle_secs=every_secs,
            only_once=not again,
            is_over=lambda checkpoint: self._ending().replay(checkpoint.history, checkpoint.round),
            until=until,
        )

    def restore(self) -> Checkpoint | None:
        """The latest intact checkpoint; None if there is none.

        Raises:
          CheckpointTypeError: the checkpoint is of another model or algorithm.
        """
        return None if self.checkpoints is None else self.checkpoints.restore(self._first_state())

    def estimate(self, rounds: int = 0) -> Estimate:
        """Estimates the cost of the run: bytes, waves, programs, and the time of the remaining rounds.

        Nothing is written, and the run stays as it is. The time is that of the rounds up to the latest checkpoint, or
        of rounds that this call tries.

        Args:
          rounds: the number of rounds to try from the first state, after one more that compiles and is not timed; 0
            for none. Rounds without examples are passed over.

        Returns:
          An `Estimate`, which `print` shows in words.

        Raises:
          ValueError: `rounds` is negative, or each of the next 100 rounds is skipped or has no examples.
        """
        rounds = _checks.checked_integer("estimate(rounds=...)", rounds, 0, "write rounds=10")
        checkpoint = self.restore()
        completed, records = (0, []) if checkpoint is None else (checkpoint.round, checkpoint.history.records)
        if rounds:
            records = []
            self._try(self._next_cohort, [Outlet(lambda round_: records.append(round_.record))], rounds + 1)
        drawn = self._next_cohort(completed + 1)
        left = None if self.last_round is None else max(0, self.last_round - completed)
        return Estimate(drawn.size, self.process.next.estimate(drawn.cohort), left, typical_seconds(records))

    def test(self) -> Any:
        """Tries a round with one client and one batch, and an evaluation; writes nothing to the folder.

        The client is the first one with examples, in the first round that has such a client. The hooks are called;
        nothing is released or exported.

        Returns:
          What the evaluation measures; None without an evaluation.

        Warns:
          UserWarning: the round left out its client because its result was not finite.

        Raises:
          ValueError: each of the first 100 rounds is skipped or has no examples.
        """
        cohort = self._next_cohort(1).cohort
        tried = one_batch(cohort, self.train_data, self.settings.batching, self._key)
        state = self._try(lambda number: tried, [_outlets.to_log(), _outlets.to_hooks(self.on_round)]).state
        if self.evaluation is None:
            return None
        return self._evaluator_in(None)(1, state)

    @property
    def last_round(self) -> int | None:
        """The number of the last round, if the run does not end earlier; None for no end."""
        return self._ending().last_round

    @property
    def _is_writer(self) -> bool:
        return self._writes and jax.process_index() == 0

    @functools.cached_property
    def _draw(self) -> Callable:
        ids, size = self.train_data.client_ids, self.sampler
        sampler = (lambda number: sample_clients(number, ids, size, key=self._key)) if isinstance(size, int) else size
        draw = cohort_drawer(sampler, self.train_data, self.settings.batching, key=self._key)
        return draw if self.accounting is None else lambda number: drawn_once(draw(number), number)

    @functools.cached_property
    def _evaluator(self) -> Evaluator:
        if self.evaluation is None:
            raise ValueError("the run has no evaluation; give it evaluation=fc.program.Evaluation(test_data, model)")
        if self.folder is None or self.evaluation.name is None or not self._writes:
            return self._evaluator_in(None)
        return self._evaluator_in(self.folder / self.evaluation.name)

    def _evaluator_in(self, folder: pathlib.Path | None) -> Evaluator:
        assert self.evaluation is not None
        return Evaluator(self.evaluation, _arguments.selection(self.process, measuring(self.evaluation)), folder)

    def _try(self, draw: Callable[[int], RoundCohort], outlets: Sequence[Outlet], rounds: int = 1) -> Round:
        return try_rounds(self.process, self._first_state(), draw, rounds, outlets, self._time.clock)

    def _next_cohort(self, number: int) -> RoundCohort:
        return next_cohort(self._draw, number)

    def _settings(self, batching: Batching, rounds: int | EarlyStopping | None, key: jax.Array) -> RunSettings:
        evaluation, checkpoints = self.evaluation, self.checkpoints
        return RunSettings(
            key_data=tuple(jax.random.key_data(key).tolist()),
            cohort_size=self.sampler if isinstance(self.sampler, int) else None,
            population=len(self.train_data),
            batching=batching,
            rounds=rounds,
            eval_batching=None if evaluation is None else evaluation.batching,
            eval_steps=None if evaluation is None else evaluation.steps,
            eval_every=None if evaluation is None else evaluation.every,
            checkpoint_every=None if checkpoints is None else checkpoints.every,
        )

    def _identity(self) -> dict[str, Any]:
        if self.checkpoints is None:
            return {}
        sampling = None
        with contextlib.suppress(TypeError, ValueError):  # only an accounting needs what the attribute says
            sampling = _arguments.sampling_of(self.sampler, len(self.train_data))
        return {**self.settings.identity(), **what_runs(self.process, self.train_data, sampling)}

    def _ending(self) -> Ending:
        return Ending(self.settings.rounds, self.settings.eval_every)

    def _first_state(self) -> Any:
        return first_state(self.process, self.initial_state)

    @contextlib.contextmanager
    def _writing(self):
        """A context in which this run writes, and any other run that would write to the same folders is refused."""
        folders = [self.folder, None if self.checkpoints is None else self.checkpoints.folder]
        folders = [folder for folder in folders if folder is not None and self._is_writer]
        with sole_writer(*folders):
            for folder in folders:  # also by a run that is over, which writes no further checkpoint
                remove_leftovers(folder)
            yield

    def _open_folder(self) -> RunFolder | None:
        if self._folder is None or not self._is_writer:
            return None
        return self._folder if isinstance(self._folder, RunFolder) else RunFolder(self._folder, resume=True)

    def _outlets(self, start: RunStart, ending: Ending, folder: RunFolder | None) -> list[Outlet]:
        """The outlets, in order: one after the checkpoints may end the run without losing a round."""
        outlets = [_outlets.to_log()]
        if folder is not None:
            outlets.append(_outlets.to_folder(folder, start.state, start.history, self.process.get_model_weights))
        if self.releases and self._is_writer:
            outlets.append(_outlets.to_releases(self.releases))
        if self.checkpoints is not None and self._writes:
            environment = functools.partial(environment_of, start.next)
            outlets.append(_outlets.to_checkpoints(self.checkpoints, start.history, start.run_identity, environment))
        outlets.append(_outlets.to_hooks(self.on_round))
        if self._progress and self._is_writer:
            outlets.insert(0, _outlets.to_progress_bar(ending.last_round, start.completed))
        return outlets

    def _evaluate_if_due(self, number: int, state: Any, is_last: bool) -> Any:
        every = self.settings.eval_every
        if self.evaluation is None or not (is_last or (every is not None and number % every == 0)):
            return None
        return self._evaluator(number, state)

    def _spent(self, number: int) -> dict[str, float]:
        return {} if self.accounting is None else {"privacy/epsilon": self.accounting.epsilon_so_far(number)}

    def _export(self, state: Any, metrics: Any) -> tuple[pathlib.Path, ...]:
        if self.folder is None:
            return ()  # without a folder, `checked_exports` allows no exports
        folders = tuple(self.folder / "exports" / export.name for export in self.exports)
        if folders and self._is_writer:
            weights = self.process.get_model_weights(state)
            for folder, export in zip(folders, self.exports):
                write_export(folder, export, weights, metrics)
        return folders

    def _make_up(self, start: RunStart, folder: RunFolder | None) -> TrainResult:
        """The result of a run that is over, after writing the files that a killed process did not write."""
        if folder is not None:
            finish_if_unfinished(folder, self.process.get_model_weights(start.state), start.history)
        held_out = None if self.evaluation is None else self._evaluator(start.completed, start.state)
        self._trained = start.completed, start.state
        return TrainResult(start.state, start.history, held_out, self._export(start.state, held_out))
