"""Evaluations of a run on held-out clients, by a stateless computation or by a process with a state."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_core._own_errors import noted
from fedjax_core.computations import Computation
from fedjax_core.contracts import Metric, Model
from fedjax_core.data import Batching, FederatedData
from fedjax_core.program._awaiting import awaited
from fedjax_core.program._checkpoint_folder import DamagedCheckpointError
from fedjax_core.program._checkpoints import Checkpoint, Checkpoints
from fedjax_core.program._files import remove_folder, remove_leftovers
from fedjax_core.program._history import History, on_host
from fedjax_core.program._round_lines import release_to_json_lines
from fedjax_core.program._warn import warn
from fedjax_core.templates import LearningProcess


class EvaluationResult(NamedTuple):
    """What the hooks of an `Evaluation` receive after each evaluation.

    Attributes:
      round: the number of the round whose state was evaluated.
      metrics: what the evaluation measured, with NumPy arrays.
    """

    round: int
    metrics: Any


class Evaluation(NamedTuple):
    """The clients on which a `Run` is evaluated, by what, and how often.

    Attributes:
      data: the held-out clients. Every evaluation covers all of them, unless `steps` is given.
      by: what evaluates: a model; a computation of weights and client data such as `federated_evaluation(model)`; or a
        process such as `fed_eval(model)`, whose state after each evaluated round is kept in the folder of the run. A
        computation whose first argument has the type of the process's state receives that state instead of the weights.
      metrics: metrics by name, instead of the model's own; only if `by` is a model. The loss is always included.
      batching: how the examples of a held-out client become batches; None for batches in order, of the training's size.
      steps: the number of batches at which an evaluation stops, taken from one client after another; None for no limit.
      every: the number of rounds from one evaluation to the next. The last round is always evaluated; None evaluates
        only that one.
      hooks: called with an `EvaluationResult` after each evaluation.
      name: the name of a folder in the run's folder, for `metrics.jsonl` and the states of a process; None writes
        nothing there.

    Example: a computation of the whole state, which contains the number of the round.
      >>> import jax, optax, fedjax_core as fc
      >>> data = fc.data.synthetic_iid(num_clients=20, key=jax.random.key(0))
      >>> model = fc.models.logistic_regression(60, 10)
      >>> process = fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(1))
      >>> @fc.federated_computation(process.state_type, process.next.parameters[1][1])
      ... def evaluate(state, data):
      ...     return {"round_num": state.round_num, "clients": fc.federated_sum(fc.federated_map(lambda d: 1, data))}
      >>> result = fc.program.train(
      ...     process, data, sampler=5, rounds=2, batching=fc.data.Batching(20), key=jax.random.key(2),
      ...     evaluation=Evaluation(data, evaluate),
      ... )
      >>> {name: int(value) for name, value in result.held_out.items()}
      {'clients': 20, 'round_num': 2}
    """

    data: FederatedData
    by: Model | Computation | LearningProcess
    metrics: Mapping[str, Metric] | None = None
    batching: Batching | None = None
    steps: int | None = None
    every: int | None = 10
    hooks: Sequence[Callable[[EvaluationResult], Any]] = ()
    name: str | None = "evaluation"


def measuring(evaluation: Evaluation) -> Computation | LearningProcess:
    """What evaluates, after `checked_evaluation` has replaced a model by a computation."""
    assert not isinstance(evaluation.by, Model)
    return evaluation.by


class Evaluator:
    """Evaluates the states of rounds on the same clients, which are packed once.

    Args:
      evaluation: an evaluation that `checked_evaluation` returned: `by` is a computation or a process, and `batching`
        is set.
      select: returns the part of a process's state that is evaluated, given that state.
      folder: where to write `metrics.jsonl` and the states of a process; None to write nothing.
    """

    def __init__(self, evaluation: Evaluation, select: Callable[[Any], Any], folder: pathlib.Path | None):
        self._evaluation = evaluation
        self._by = measuring(evaluation)
        self._select = select
        self._folder = folder
        self._remembered = {}

    def __call__(self, number: int, state: Any) -> Any:
        """The metrics of the state after a round, which are also released and passed to the hooks.

        A process continues from its state after the previous rounds, so a round that is evaluated again, by a resumed
        run for example, counts once in the metrics over all rounds.
        """
        by, value = self._by, self._select(state)
        metrics = on_host(self._next(by, number, value) if isinstance(by, LearningProcess) else by(value, self._cohort))
        if self._outlet is not None:
            self._outlet.release(metrics, number)
        for hook in self._evaluation.hooks:
            with noted(f"in a hook of the evaluation, after round {number}"):
                awaited(hook(EvaluationResult(number, metrics)))
        return metrics

    def _next(self, process: LearningProcess, number: int, weights: Any) -> Any:
        state = process.set_model_weights(self._state_before(process, number), weights)
        state, metrics = process.next(state, self._cohort)
        if self._states is None:
            before = max((n for n in self._remembered if n < number), default=None)
            # Two states are enough: an evaluation of this round again continues from the previous one.
            self._remembered = {n: s for n, s in self._remembered.items() if n == before} | {number: state}
            return metrics
        for later in [n for n in self._states.rounds if n > number]:  # left by a run that has since gone back
            remove_folder(self._states.folder / str(later))
        self._states.save(Checkpoint(number, state, History(), run_identity={}, environment={}))
        self._states.wait()
        return metrics

    def _state_before(self, process: LearningProcess, number: int) -> Any:
        if self._states is None:
            earlier = [n for n in self._remembered if n < number]
            return self._remembered[max(earlier)] if earlier else process.initialize()
        initial = process.initialize()
        for before in reversed([n for n in self._states.rounds if n < number]):
            try:
                return self._states.load(before, initial).state
            except DamagedCheckpointError as error:
                warn(f"the evaluation's state after round {before} is damaged and skipped: {error}")
        return initial

    @functools.cached_property
    def _cohort(self) -> Any:
        data, batching, most = self._evaluation.data, self._evaluation.batching, self._evaluation.steps
        assert batching is not None  # `checked_evaluation` fills in the default
        if most is None:
            return data.cohort(data.client_ids, batching)
        steps = batching.num_steps(data.sizes)
        limits = np.clip(most - (np.cumsum(steps) - steps), 0, steps)
        ids = data.client_ids.take(np.flatnonzero(limits))
        return data.cohort(ids, batching, max_steps=limits[limits > 0])

    @functools.cached_property
    def _states(self) -> Checkpoints | None:
        return None if self._folder is None else Checkpoints(self._folder / "checkpoints")

    @functools.cached_property
    def _outlet(self):
        if self._folder is None or jax.process_index() > 0:
            return None
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._folder)
        return release_to_json_lines(self._folder / "metrics.jsonl")
