"""When a run is over: after its last round, or earlier, when a metric no longer improves."""

import dataclasses
import math
from typing import Any

from fedjax_core import _checks
from fedjax_core.program._history import History, Record
from fedjax_core.program._warn import warn

_HELD_OUT = "held_out/"


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Ends a run after a metric has not improved for a while; the `rounds` of a `Run`.

    The decision is a function of the history, which every checkpoint holds, so a resumed run ends after the same
    round as one that was never interrupted. A run that ends early evaluates, writes a checkpoint and exports as after
    its last round. `Checkpoints(best_metric=...)` keeps the best round.

    Attributes:
      metric: the metric's name as in `History.columns`, for example `"held_out/eval/loss"` or
        `"client_work/train/loss"`.
      patience: ends the run after this many consecutive measurements without an improvement on the best value so far.
        A metric of the evaluation is measured every `Evaluation.every` rounds, any other metric after each round. NaN
        never counts as an improvement.
      mode: "min" or "max": whether a smaller or a larger value is better.
      min_delta: how much better than the best value a new one must be to count as an improvement.
      max_rounds: the number of the last round if the metric keeps improving; None for no end.

    Raises:
      TypeError: `metric` is not a string, or a number is of the wrong type.
      ValueError: a number is out of its range, or `mode` is unknown.

    Example:
      >>> import jax, optax, fedjax_core as fc
      >>> data, test_data = fc.data.synthetic_iid(num_clients=20, key=jax.random.key(0)).split_examples(0.8)
      >>> model = fc.models.logistic_regression(60, 10)
      >>> result = fc.program.train(
      ...     fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(1)),
      ...     data,
      ...     sampler=5,
      ...     rounds=EarlyStopping("held_out/eval/loss", patience=2, min_delta=0.5, max_rounds=50),
      ...     batching=fc.data.Batching(batch_size=20),
      ...     evaluation=fc.program.Evaluation(test_data, model, every=1),
      ...     key=jax.random.key(2),
      ... )
      >>> len(result.history) < 50
      True
    """

    metric: str
    patience: int
    mode: str = "min"
    min_delta: float = 0.0
    max_rounds: int | None = None

    def __post_init__(self):
        if not isinstance(self.metric, str):
            raise TypeError(
                f"EarlyStopping(metric=...) must be the name of a metric, got {self.metric!r}; for example "
                "'held_out/eval/loss'"
            )
        self._set_count("patience")
        _checks.check_choice("EarlyStopping(mode=...)", self.mode, ("min", "max"), "write mode='min'")
        call, repair = "EarlyStopping(min_delta=...)", "write min_delta=0.01"
        self._set("min_delta", _checks.checked_number(call, self.min_delta, _checks.NOT_NEGATIVE, repair))
        if self.max_rounds is not None:
            self._set_count("max_rounds")

    def _set_count(self, name: str) -> None:
        call, value = f"EarlyStopping({name}=...)", getattr(self, name)
        self._set(name, _checks.checked_integer(call, value, 1, f"write {name}=10"))

    def _set(self, name: str, number: float) -> None:
        # Stored as a Python number, which `run.json` can hold.
        object.__setattr__(self, name, number)

    @property
    def is_held_out(self) -> bool:
        """Whether the evaluation measures the metric."""
        return self.metric.startswith(_HELD_OUT)

    @property
    def is_of_participation(self) -> bool:
        """Whether the sampler measures the metric, through the `Participation` that it returns."""
        return self.metric.startswith("participation/")


class Ending:
    """Decides after each round whether it was the last one.

    Args:
      rounds: the `rounds` of a `Run`.
      evaluate_every: the number of rounds from one evaluation to the next; None if only the last round is evaluated.

    Attributes:
      last_round: the number of the last round, if the run does not end earlier; None for no end.
    """

    def __init__(self, rounds: int | EarlyStopping | None, evaluate_every: int | None):
        self._rule = rounds if isinstance(rounds, EarlyStopping) else None
        self.last_round: int | None = rounds.max_rounds if isinstance(rounds, EarlyStopping) else rounds
        self._every = evaluate_every
        # `check_early_stopping` knew before the run what the evaluation and the process measure.
        self._is_checked = self._rule is None or not self._rule.is_of_participation
        self.reset()

    def reset(self) -> None:
        """Forgets the rounds seen so far."""
        self._best = math.inf
        self._waited = 0

    def replay(self, history: History, completed: int) -> bool:
        """Whether a run with this history is over; `measured` continues from there."""
        self.reset()
        over = self._is_last(completed)
        for record in history.records:
            over |= self.measured(record.round, record.row())
        return over

    def measured(self, number: int, values: dict[str, Any]) -> bool:
        """Whether a round is the last one, given what was measured after it.

        Args:
          number: the number of the round.
          values: what was measured, by its names in a history. Nothing is decided if the metric of the early stopping
            is not among them, so the numbers of a round and those of its evaluation can be passed in two calls.
        """
        rule = self._rule
        if rule is not None and rule.metric in values and self._counts(rule, number):
            value = values[rule.metric] if rule.mode == "min" else -values[rule.metric]
            # The best value starts at infinity, so the first value improves on it; comparisons with NaN are false.
            better = value < self._best - rule.min_delta
            self._best, self._waited = (value, 0) if better else (self._best, self._waited + 1)
        return self._is_last(number) or (rule is not None and self._waited >= rule.patience)

    def check_measured(self, record: Record) -> None:
        """Warns once if the first round did not measure the metric, since the run may then never end."""
        rule = self._rule
        if rule is not None and not self._is_checked:
            self._is_checked = True
            if rule.metric not in record.metrics:
                warn(
                    f"EarlyStopping(metric={rule.metric!r}) is not among what round {record.round} measured: "
                    f"{', '.join(record.metrics)}; it ends the run only after rounds that do"
                )

    def _is_last(self, number: int) -> bool:
        return self.last_round is not None and number >= self.last_round

    def _counts(self, rule: EarlyStopping, number: int) -> bool:
        """Whether a value counts: a longer run would not have evaluated where this one, extended later, once ended."""
        return not rule.is_held_out or (self._every is not None and number % self._every == 0)
