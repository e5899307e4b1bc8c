"""One real participant of a federation."""

import logging
import operator
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core import _checks, trees
from fedjax_core.clients import (
    Accumulator,
    ClientOptimizer,
    LocalOptimizer,
    accumulator,
    has_running_state,
    trainable_of,
    training_step,
    weights_type,
)
from fedjax_core.contracts import Metric, Model
from fedjax_core.data import Batching
from fedjax_core.model_calls import model_metrics, predicted
from fedjax_core.participant._arguments import check_aggregator, logger_of, round_optimizer
from fedjax_core.participant._limits import EffortMeter, check_some_limit
from fedjax_core.participant._local_data import LocalData
from fedjax_core.participant._messages import ErrorReply, EvaluationReply, EvaluationRequest, TrainReply, TrainRequest
from fedjax_core.participant._participant_metrics import with_metrics
from fedjax_core.participant._step_bar import step_bar

METRICS_LEVEL = logging.INFO + 5
"""The log level of an evaluation's metrics, between INFO and WARNING."""


class _State(NamedTuple):
    """What a participant keeps between two steps.

    Attributes:
      weights: the model's weights.
      optimizer: the optimizer's state.
      round_num: int32 `[]`, the number of the round; 0 before the first one.
      key: the round's key, or None.
      step: int32 `[]`, the number of steps that have drawn from this key.
    """

    weights: Any
    optimizer: Any
    round_num: jax.Array
    key: jax.Array | None
    step: jax.Array


class TrainingManager:
    """One real participant of a federation, which trains and evaluates on its own data when it is asked to.

    It answers messages, in this process or as bytes from another (`encode_message`, `decode_message`), and measures
    effort with a real clock. The weights and the optimizer's state, such as momentum, live as long as the manager. What
    it draws (initial weights, shuffling, dropout) is a function of `key` and of the round: epoch `i` of round `r`
    shuffles like `data.cohort([client_id], batching, key=epoch_key)` with the epoch key
    `fold_in(fold_in(split(key)[1], r), i)`.

    Args:
      model: the model.
      optimizer: an optax transformation; a `clients.LocalOptimizer`, which exchanges auxiliary variables with the
        server; or a function of `round_num` that returns one of them, for rates that follow the `round_i` of the
        requests. `fed_avg` numbers its rounds from 0, so a server that counts from 0 gives the same rates.
      aggregator: the server's `Aggregator`, to which the update is sent as it is; or an object with
        `prepare(update, n_steps, n_examples)`, which makes an update ready to share.
      train_data: this participant's examples, as a dict of arrays or the `FederatedData` of one client.
      valid_data: the examples to evaluate on, in the same form; None for `train_data`.
      metrics: the metrics to evaluate: a dict from name to `Metric`, or names of the model's metrics or of metrics in
        `fc.metrics` that take no argument; None for the model's. The loss is always included, and replaces a metric
        of that name.
      logger: a logger, or the name of one; None for the class's name.
      verbose: whether to show a progress bar of the round's steps on standard error if that is a terminal.
      on_step: `(weights, batch, mask) -> None`, called before every training step with the current weights, the batch,
        a pytree of `[B, ...]`, and the mask, bool `[B]`, which is False on padding. It may raise `StopIteration` to end
        the round with what has been trained so far. None for no call.
      clock: returns the time in seconds.
      key: a JAX key for all that is drawn. Without one, the first request must contain weights, and neither the
        batching nor the model may draw.

    Attributes:
      model, optimizer, aggregator, train_data, valid_data, verbose, on_step: as given.
      metrics: all metrics by name, the loss first.
      logger: the logger.

    Raises:
      TypeError: an argument is of the wrong type, or the data is not of the model's `batch_type`.
      ValueError: the data is that of several clients, or a metric is unknown.

    Example:
      >>> import numpy as np, optax, fedjax_core as fc
      >>> model = fc.models.logistic_regression(2, 2)
      >>> data = {"x": np.eye(2, dtype=np.float32), "y": np.array([0, 1], np.int32)}
      >>> manager = TrainingManager(model, optax.sgd(0.1), fc.aggregators.mean(), data)
      >>> weights = model.init(jax.random.key(0))
      >>> reply = manager.training_round(TrainRequest(1, weights, {}, {"batch_size": 2}, n_epoch=3))
      >>> reply.n_epoch, reply.n_steps, reply.n_examples
      (3, 3, 6)
      >>> after = manager.evaluation_round(EvaluationRequest(1, None, {"batch_size": 2}))
      >>> before = manager.evaluation_round(EvaluationRequest(1, weights, {"batch_size": 2}))
      >>> after.loss < before.loss
      True
    """

    def __init__(
        self,
        model: Model,
        optimizer: ClientOptimizer,
        aggregator: Any,
        train_data: Any,
        valid_data: Any = None,
        metrics: Mapping[str, Metric | str] | Iterable[str] | None = None,
        logger: logging.Logger | str | None = None,
        verbose: bool = True,
        *,
        on_step: Callable[[Any, Any, Any], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        key: jax.Array | None = None,
    ):
        self.model, self.optimizer, self.aggregator = model, optimizer, aggregator
        self.train_data, self.valid_data, self.verbose = train_data, valid_data, verbose
        self.on_step = on_step
        measured = with_metrics(model, metrics)
        self.metrics = model_metrics(measured)
        self.logger = logger_of(type(self).__name__ if logger is None else logger)
        check_aggregator(aggregator)
        if key is not None:
            _checks.check_key("TrainingManager(key=...)", key)
        _checks.check_function("TrainingManager(clock=...)", clock, "that gives seconds", "leave it out")
        if on_step is not None:
            repair = "write on_step=lambda weights, batch, mask: None"
            _checks.check_function("TrainingManager(on_step=...)", on_step, "of weights, batch and mask", repair)
            _checks.check_not_async("TrainingManager(on_step=...)", on_step)
        weights_type(model)  # raises for a model whose weights cannot be trained
        self._weights_type = jax.eval_shape(model.init, jax.random.key(0))
        self._optimizer_of = round_optimizer(optimizer)
        self._has_running = has_running_state(model)
        self._train_data = LocalData("train_data", train_data, model.batch_type)
        self._valid_data = self._train_data
        if valid_data is not None:
            self._valid_data = LocalData("valid_data", valid_data, model.batch_type)
        self._init_key, self._rounds_key = (None, None) if key is None else jax.random.split(key)
        self._clock = clock
        self._state: _State | None = None
        self._step = _training_step(model, self._optimizer_of)
        self._accumulator = accumulator(measured)
        self._measure = _measuring_step(model, self._accumulator)
        self._finalize = jax.jit(_finalized(self._accumulator))

    @property
    def weights(self) -> Any:
        """The model's current weights.

        Raises:
          ValueError: there are no weights yet, and no key to draw them from.
        """
        return self._current().weights

    def training_round(self, message: TrainRequest) -> TrainReply | ErrorReply:
        """Trains as the server requests.

        It takes the request's weights, or continues from its own; starts the optimizer's round with the auxiliary
        variables; trains until the first limit is reached; and replies with the initial minus the trained weights,
        prepared by the aggregator. If the server averages the model's running state (`Model.running`), the auxiliary
        variable `running` in the reply is `{"state": ..., "num_examples": ...}`.

        Returns:
          A `TrainReply`; or an `ErrorReply` with the `repr` of the exception that ended the round. After an error the
          weights and the optimizer are as they were before the request.
        """
        return self._answered("training", TrainRequest, self._train, message)

    def evaluation_round(self, message: EvaluationRequest) -> EvaluationReply | ErrorReply:
        """Evaluates as the server requests; the request's weights, if it has any, replace the participant's own.

        Returns:
          An `EvaluationReply`; or an `ErrorReply`, as `training_round` does.
        """
        return self._answered("evaluation", EvaluationRequest, self._evaluate, message)

    def train_under_constraints(
        self,
        batches: Mapping[str, Any],
        n_epoch: int | None = 1,
        n_steps: int | None = None,
        timeout: float | None = None,
    ) -> dict[str, int | float]:
        """Trains the current weights until the first limit is reached.

        The limits of steps and seconds are checked after every step, so at least one step is taken; the limit of epochs
        is checked between epochs. An epoch that has begun counts as one. If `on_step` raises `StopIteration`, its step
        is neither taken nor counted, and training ends with a logged warning.

        Args:
          batches: the arguments of `data.Batching`. An epoch is one pass over the batches, in which an
            example occurs `num_epochs` times.
          n_epoch: the largest number of epochs; None for no limit.
          n_steps: the largest number of steps; None for no limit.
          timeout: seconds after which no further step begins; None for no limit.

        Returns:
          A dict of `n_epoch` and `n_steps`, the numbers of epochs and steps, and `t_spent`, the seconds.

        Raises:
          ValueError: a limit is not positive, all of them are None, or there is no batch.
          TypeError: a limit or an argument of `batches` is of the wrong type.
        """
        meter = self._trained(batches, n_epoch, n_steps, timeout)
        return {"n_epoch": meter.n_epoch, "n_steps": meter.n_steps, "t_spent": meter.t_spent}

    def evaluate_under_constraints(
        self, batches: Mapping[str, Any], n_steps: int | None = None, timeout: float | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, int | float]]:
        """Evaluates the current weights in at most one pass over the data.

        Args:
          batches: the arguments of `data.Batching`, without `num_epochs`.
          n_steps: the largest number of batches; None for no limit.
          timeout: seconds after which no further batch begins; None for no limit.

        Returns:
          The metrics by name, as numbers or arrays; their unfinalized statistics by name, which add up over
          participants; and a dict of `n_steps`, the number of batches, and `t_spent`, the seconds.

        Raises:
          ValueError: a limit is not positive, there is no batch, or `batches` asks for more than one pass.
          TypeError: a limit or an argument of `batches` is of the wrong type.
        """
        batching, data, state = Batching(**batches), self._valid_data, self._current()
        if batching.num_epochs != 1:
            raise ValueError(f"an evaluation must be at most one pass, got {batching}; leave out `num_epochs`")
        total = data.num_batches(batching)
        meter = EffortMeter(self._clock, n_steps=n_steps, timeout=timeout)
        running = self._accumulator.init()
        with step_bar("evaluation", "batches", min(total, n_steps or total), self.verbose) as advance:
            for batch, mask in data.batches(batching, _folded(state.key, 0)):
                running = self._measure(running, state.weights, batch, mask)
                advance()
                meter.count_step(int(mask.sum()), running)
                if meter.is_spent:
                    break
        meter.wait_for(running)
        states, metrics = jax.device_get(self._finalize(running))
        values = jax.tree.map(_python, metrics)
        scalars = {name: f"{value:.4f}" for name, value in values.items() if isinstance(value, float)}
        self.logger.log(METRICS_LEVEL, "metrics: %s", scalars)
        return values, states, {"n_steps": meter.n_steps, "t_spent": meter.t_spent}

    def _answered(self, what: str, kind: type, work: Callable, message: Any) -> Any:
        """The reply of `work` to the message; after an error, restores the state and returns an `ErrorReply`."""
        before = self._state
        try:
            if not isinstance(message, kind):
                raise TypeError(f"{what}_round takes a {kind.__name__}, got a {type(message).__name__}")
            call, repair = f"{kind.__name__}(round_i=...)", "count the rounds from 0"
            _checks.checked_integer(call, message.round_i, 0, repair, most=2**31 - 1)
            self.logger.info("%s round %s: starts", what, message.round_i)
            return work(message)
        except Exception as error:
            self._state = before
            self.logger.exception("%s round failed", what)
            return ErrorReply(repr(error))

    def _train(self, message: TrainRequest) -> TrainReply:
        self.logger.info("training round %s: applies weights and auxiliary variables", message.round_i)
        if message.weights is not None:
            self._take(message.weights)
        start, round_num = self._current(), jnp.int32(operator.index(message.round_i))  # 1.5 would become 1
        optimizer = self._optimizer_of(round_num)
        self._state = start._replace(
            optimizer=optimizer.start_round(start.optimizer, message.aux_var, trainable_of(start.weights)),
            round_num=round_num,
            key=_folded(self._rounds_key, message.round_i),
            step=jnp.int32(0),
        )
        limits = message.n_epoch, message.n_steps, message.timeout
        self.logger.info("training round %s: at most %s epochs, %s steps, %s seconds", message.round_i, *limits)
        meter = self._trained(message.batches, *limits)
        self.logger.info("training round %s: packs the update", message.round_i)
        update = trees.subtract(trainable_of(start.weights), trainable_of(self._state.weights))
        return TrainReply(
            updates=_prepared(self.aggregator, update, meter.n_steps, meter.n_examples),
            aux_var=self._auxiliary(meter) if meter.n_steps else {},
            n_epoch=meter.n_epoch,
            n_steps=meter.n_steps,
            n_examples=meter.n_examples,
            t_spent=round(meter.t_spent, 3),
        )

    def _auxiliary(self, meter: EffortMeter) -> dict[str, Any]:
        """The optimizer's auxiliary variables, and the model's running state if the server averages it."""
        state = self._current()
        variables = self._optimizer_of(state.round_num).collect(state.optimizer)
        if self._has_running and self.model.running == "average":
            running = {"state": state.weights.non_trainable, "num_examples": meter.n_examples}
            variables = {**variables, "running": running}
        return variables

    def _evaluate(self, message: EvaluationRequest) -> EvaluationReply:
        self.logger.info("evaluation round %s: applies weights", message.round_i)
        if message.weights is not None:
            self._take(message.weights)
        limits = message.n_steps, message.timeout
        self.logger.info("evaluation round %s: at most %s batches, %s seconds", message.round_i, *limits)
        values, states, effort = self.evaluate_under_constraints(message.batches, *limits)
        self.logger.info("evaluation round %s: packs the metrics", message.round_i)
        return EvaluationReply(values["loss"], states, int(effort["n_steps"]), round(effort["t_spent"], 3))

    def _trained(
        self, batches: Mapping[str, Any], n_epoch: int | None, n_steps: int | None, timeout: float | None
    ) -> EffortMeter:
        """Trains, and returns the meter of the effort spent."""
        check_some_limit(n_epoch=n_epoch, n_steps=n_steps, timeout=timeout)
        batching = Batching(**batches)
        per_epoch = self._train_data.num_batches(batching)
        meter = EffortMeter(self._clock, n_epoch, n_steps, timeout)
        totals = [n for n in (n_steps, n_epoch and n_epoch * per_epoch) if n is not None]
        with step_bar("training", "steps", min(totals, default=None), self.verbose) as advance:
            goes_on = True
            while goes_on and meter.has_epochs_left:
                goes_on = self._train_epoch(batching, meter, advance)
        meter.wait_for(self._state)
        return meter

    def _train_epoch(self, batching: Batching, meter: EffortMeter, advance: Callable[[], None]) -> bool:
        """Trains for an epoch, and returns whether another may follow."""
        key = _folded(self._current().key, meter.n_epoch)
        meter.count_epoch()
        for batch, mask in self._train_data.batches(batching, key):
            try:
                self._run_step(batch, mask)
            except StopIteration as error:
                self.logger.warning("training ends early: %s", error)
                return False
            advance()
            meter.count_step(int(mask.sum()), self._state)
            if meter.is_spent:
                return False
        return True

    def _run_step(self, batch: Any, mask: Any) -> None:
        state = self._current()
        if self.on_step is not None:
            self.on_step(state.weights, batch, mask)
        self._state = self._step(state, batch, mask)

    def _current(self) -> _State:
        if self._state is None:
            if self._init_key is None:
                raise ValueError(
                    "this participant has no weights yet: send them with the first request, or draw them with "
                    "TrainingManager(key=jax.random.key(0))"
                )
            return self._take(self.model.init(self._init_key))
        return self._state

    def _take(self, weights: Any) -> _State:
        """Replaces the current weights; the optimizer keeps its state."""
        try:
            weights = jax.tree.map(jnp.array, trees.match(weights, like=self._weights_type))
        except ValueError as error:
            raise ValueError(f"the request's weights must be like the model's: {error}") from None
        if self._state is None:
            optimizer = self._optimizer_of(jnp.int32(0)).init(trainable_of(weights))
            self._state = _State(weights, optimizer, jnp.int32(0), _folded(self._rounds_key, 0), jnp.int32(0))
        else:
            self._state = self._state._replace(weights=weights)
        return self._state


def _training_step(model: Model, optimizer_of: Callable[[jax.Array], LocalOptimizer]) -> Callable:
    training_step(model, optimizer_of(jnp.int32(0)))  # raises and warns now rather than in the first round

    @jax.jit
    def step(state: _State, batch, mask) -> _State:
        key = _folded(state.key, state.step)
        train = training_step(model, optimizer_of(state.round_num))
        weights, optimizer_state, _ = train(state.weights, state.optimizer, batch, mask, key)
        return state._replace(weights=weights, optimizer=optimizer_state, step=state.step + 1)

    return step


def _measuring_step(model: Model, metrics: Accumulator) -> Callable:
    @jax.jit
    def step(running, weights, batch, mask):
        return metrics.add(running, predicted(model, weights, batch, mask).predictions, batch, mask)

    return step


def _finalized(metrics: Accumulator) -> Callable:
    """`running -> (statistics, metrics)`."""

    def finalized(running):
        statistics = metrics.total(running)
        return statistics, metrics.finalize(statistics)

    return finalized


def _folded(key: jax.Array | None, number: Any) -> jax.Array | None:
    return None if key is None else jax.random.fold_in(key, number)


def _python(array: Any) -> Any:
    return array if array.ndim else array.item()


def _prepared(aggregator: Any, update: Any, n_steps: int, n_examples: int) -> Any:
    """The update as it is shared: unchanged, unless the aggregator has a `prepare`."""
    prepare = getattr(aggregator, "prepare", None)
    return update if prepare is None else prepare(update, n_steps, n_examples)
