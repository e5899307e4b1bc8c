"""Evaluations of the weights of a run, by a stateless computation or by a process that remembers."""

import functools
import pathlib
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_core.computations import Computation
from fedjax_core.data import Batching, FederatedData
from fedjax_core.program._atomic import remove_folder, remove_leftovers
from fedjax_core.program._checkpoint_folder import DamagedCheckpointError
from fedjax_core.program._checkpoints import Checkpoint, Checkpoints
from fedjax_core.program._history import History
from fedjax_core.program._json_lines import release_to_json_lines
from fedjax_core.templates import LearningProcess


class Evaluation(NamedTuple):
    """What `eval_hooks` are told after each evaluation.

    Attributes:
      round: the number of the round whose weights were evaluated.
      metrics: what the evaluation measured, as it returned it.
    """

    round: int
    metrics: Any


class Evaluator:
    """Evaluates the weights of rounds on the same clients, which are packed once.

    Args:
      evaluation: a computation of weights and client data, or a process such as `fed_eval(...)`.
      data: whom to evaluate on.
      batching: their batches.
      steps: at most so many batches, of one client after another; None for all.
      folder: where to leave `metrics.jsonl` and the states of a process; None for nowhere.
    """

    def __init__(
        self,
        evaluation: Computation | LearningProcess,
        data: FederatedData,
        batching: Batching,
        steps: int | None,
        folder: pathlib.Path | None,
    ):
        self._evaluation = evaluation
        self._data = data
        self._batching = batching
        self._steps = steps
        self._folder = folder

    def __call__(self, number: int, weights: Any) -> Any:
        """The metrics of the weights of a round.

        A process goes on from its state after the rounds before, so that a round which is evaluated again,
        by a run that was resumed for example, counts once in the metrics of all rounds.
        """
        if isinstance(self._evaluation, LearningProcess):
            metrics = self._next(number, weights)
        else:
            metrics = self._evaluation(weights, self._cohort)
        if self._outlet is not None:
            self._outlet.release(metrics, number)
        return metrics

    def _next(self, number: int, weights: Any) -> Any:
        process = self._evaluation
        state = process.set_model_weights(self._state_before(number), weights)
        state, metrics = process.next(state, self._cohort)
        if self._states is not None:
            for later in [n for n in self._states.rounds if n > number]:  # of a run that went back
                remove_folder(self._states.folder / str(later))
            self._states.save(Checkpoint(number, state, History(), run_identity={}, environment={}))
            self._states.wait()
        return metrics

    def _state_before(self, number: int) -> Any:
        initial = self._evaluation.initialize()
        earlier = [] if self._states is None else [n for n in self._states.rounds if n < number]
        for before in reversed(earlier):
            try:
                return self._states.load(before, initial).state
            except DamagedCheckpointError as error:
                warnings.warn(f"the metrics up to round {before} are damaged and skipped: {error}", stacklevel=4)
        return initial

    @functools.cached_property
    def _cohort(self) -> Any:
        if self._steps is None:
            return self._data.cohort(self._data.client_ids, self._batching)
        steps = self._batching.num_steps(self._data.sizes)
        limits = np.clip(self._steps - (np.cumsum(steps) - steps), 0, steps)
        ids = [i for i, limit in zip(self._data.client_ids, limits.tolist()) if limit]
        return self._data.cohort(ids, self._batching, max_steps=limits[limits > 0])

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
