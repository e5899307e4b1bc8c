"""What the catalogue rooms fill in: NamedTuples of pure functions.

Axis letters: `B` examples of a batch. A batch is a pytree whose leaves have the leading axis
`B`, by convention a dict with the inputs `x` and the labels `y`. A `mask` is bool `[B]`, False
on padding; whoever calls a model does so by `model_calls.predicted` and `model_calls.losses`, and masks the losses.

The types of the fields have the names of the parameters, for editors. Where they are before a `/`, they are given by
position, and a function may have others. Where a field is `... | Callable`, the function may have a further parameter,
which is found by its name.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

from fedjax_core import types
from fedjax_core._signposts import signpost
from fedjax_core.language import Placed
from fedjax_core.templates import AggregationProcess, MeasuredProcessOutput

__all__ = [
    "Aggregator",
    "ClientResult",
    "ClientWork",
    "Distributor",
    "Finalizer",
    "Metric",
    "MetricsAggregation",
    "Model",
    "ModelWeights",
    "Predicted",
    "Running",
]

signpost(__name__)


class ModelWeights(NamedTuple):
    """Weights of which only a part is trained.

    What a `Model.init` returns that has something beside trainable weights, for example the
    running averages of a batch normalization. Both parts are broadcast to the clients; only
    `trainable` is updated and averaged.

    Attributes:
      trainable: a pytree of floating point arrays, what the gradient is taken of.
      non_trainable: a pytree of arrays of any dtype, constant throughout training.

    Example:
      >>> import jax.numpy as jnp
      >>> weights = ModelWeights(trainable={"w": jnp.ones(3)}, non_trainable={"scale": jnp.ones(())})
      >>> weights.trainable["w"].shape
      (3,)
    """

    trainable: Any
    non_trainable: Any


class _Measure(Protocol):
    def __call__(self, predictions: Any, batch: Any, mask: jax.Array, /) -> Any: ...


class _FinalizeMetric(Protocol):
    def __call__(self, statistic: Any, /) -> Any: ...


class Metric(NamedTuple):
    """A number about predictions that can be added up over batches and clients.

    `measure` makes a statistic of one batch. Statistics of two batches, or of two clients, are
    added leaf by leaf, and `finalize` turns the total into the value for people. So a mean is
    measured as a sum and a count. Both functions are pure and JAX-traceable.

    Attributes:
      measure: `(predictions, batch, mask) -> statistic`. `predictions` is what the model's
        `predict` returned for `batch`; `mask` is bool `[B]`. The statistic is a pytree of arrays
        whose shapes do not depend on `B`. Examples with mask False, NaN among them, must not
        change it: select with `jnp.where`, since `nan * 0` is NaN.
      finalize: `(statistic) -> value`, a pytree of arrays. Where nobody was measured the value
        is NaN (0/0), not a made-up zero.

    Example:
      >>> import jax.numpy as jnp
      >>> def measure(predictions, batch, mask):
      ...     errors = jnp.abs(predictions - batch["y"])
      ...     return jnp.sum(jnp.where(mask, errors, 0.0)), jnp.sum(mask, dtype="int32")
      >>> mean_absolute_error = Metric(measure, lambda statistic: statistic[0] / statistic[1])
      >>> batch = {"y": jnp.array([1.0, 2.0, jnp.nan])}
      >>> mask = jnp.array([True, True, False])
      >>> statistic = mean_absolute_error.measure(jnp.array([1.5, 2.0, 0.0]), batch, mask)
      >>> float(mean_absolute_error.finalize(statistic))
      0.25
    """

    measure: _Measure
    finalize: _FinalizeMetric


class _InitModel(Protocol):
    def __call__(self, key: jax.Array, /) -> Any: ...


class _Predict(Protocol):
    def __call__(self, weights: Any, batch: Any, /, key: jax.Array | None = None, training: bool = False) -> Any: ...


class _Loss(Protocol):
    def __call__(self, predictions: Any, batch: Any, /) -> jax.Array: ...


class Model(NamedTuple):
    """A model as pure functions; the adapters of the room `models` make one of a flax module.

    Attributes:
      init: `(key) -> weights`. `key` is a JAX typed key. The weights are a pytree of arrays, all
        of it trainable, or `ModelWeights(trainable, non_trainable)`.
      predict: `(weights, batch, key=None, training=False) -> predictions`, a pytree with the
        leading axis `B`. Reads the inputs and never the labels. With `key=None` and
        `training=False` it is deterministic; `training=True` switches on what is done in
        training only, for which `key` gives the randomness (dropout). If it has a parameter `mask`, it
        is given the batch's mask, so that a layer that combines rows can leave padding out; without one,
        rows must not depend on one another. In training it may return
        `Predicted(predictions, non_trainable)`, with the non-trainable weights as the batch leaves them.
      loss: `(predictions, batch) -> losses`, floating point `[B]`, one for each example,
        neither averaged nor masked. It, too, is given the mask if it has a parameter `mask`, for a loss
        that compares rows.
      metrics: the other metrics by name, a dict of `Metric`. The loss need not be among them:
        `model_calls.model_metrics` adds it.
      batch_type: the type of one batch, `?` in place of `B`, for example
        `<x=float32[?,784],y=int32[?]>`.
      running: what becomes of the non-trainable weights that `predict` returns in training, the running
        state. "average": the server takes the mean of what the clients' training leaves, weighted by their
        examples. "keep": a client carries it from step to step, and it is not sent.

    Example: linear regression, from scratch.
      >>> import jax.numpy as jnp
      >>> def predict(weights, batch, key=None, training=False):
      ...     return batch["x"] @ weights["w"] + weights["b"]
      >>> model = Model(
      ...     init=lambda key: {"w": jnp.zeros(3), "b": jnp.zeros(())},
      ...     predict=predict,
      ...     loss=lambda predictions, batch: (predictions - batch["y"]) ** 2,
      ...     metrics={},
      ...     batch_type=types.parse_type("<x=float32[?,3],y=float32[?]>"),
      ... )
      >>> weights = model.init(jax.random.key(0))
      >>> batch = {"x": jnp.ones((2, 3)), "y": jnp.array([1.0, 2.0])}
      >>> model.loss(model.predict(weights, batch), batch)
      Array([1., 4.], dtype=float32)
    """

    init: _InitModel
    predict: _Predict | Callable[..., Any]
    loss: _Loss | Callable[..., jax.Array]
    metrics: Mapping[str, Metric]
    batch_type: types.Type
    running: str = "average"


class Predicted(NamedTuple):
    """Predictions, and the running state that they leave: what `Model.predict` may return in training.

    Attributes:
      predictions: a pytree with the leading axis `B`.
      non_trainable: like the `non_trainable` of the model's `ModelWeights`, with the running averages as this
        batch leaves them; `()` where there is no running state.

    Example: a model that centers its input, in training by the batch's mean.

    >>> import jax.numpy as jnp
    >>> def predict(weights, batch, key=None, training=False, mask=None):
    ...     if not training:
    ...         return batch["x"] - weights.non_trainable[None]
    ...     mean = jnp.mean(batch["x"], axis=0, where=mask[:, None])
    ...     return Predicted(batch["x"] - mean[None], 0.9 * weights.non_trainable + 0.1 * mean)
    >>> weights = ModelWeights(trainable=(), non_trainable=jnp.zeros(1))
    >>> batch, mask = {"x": jnp.array([[1.0], [3.0], [9.0]])}, jnp.array([True, True, False])
    >>> print(predict(weights, batch, training=True, mask=mask).non_trainable)
    [0.2]
    """

    predictions: Any
    non_trainable: Any = ()


class Running(NamedTuple):
    """Running state that a model updated while a client trained, such as the averages of a batch normalization.

    `compose` averages it over the clients, by examples, into the `non_trainable` part of the weights.

    Attributes:
      state: of the type of the model's `ModelWeights.non_trainable`. Floating point leaves are averaged; the
        server keeps its own of all others.
      num_examples: float32 `[]`, the examples that the state was computed from; zero counts for nothing.
    """

    state: Any
    num_examples: Any


class ClientResult(NamedTuple):
    """What a client answers in a round of learning.

    A NaN or infinity in any field makes the client unfit: the round goes on as if it had not taken part.

    Attributes:
      update: a pytree of arrays, whatever the aggregator takes. Mostly it is like the trainable weights, initial
        minus trained: a pseudo-gradient.
      weight: float32 `[]`, the client's weight in the mean; zero for a client that processed no example. Or a
        pytree of float32 arrays, where the aggregator takes several: one a cluster, for example. A client
        contributes if any entry is positive.
      metrics: the statistics of its metrics by name, see `Metric.measure`.
      extra: a pytree of arrays that the client work's own `commit` takes besides, without an aggregator's noise.
      running: `()`, or the `Running` state of the model after the client's training.
    """

    update: Any
    weight: Any
    metrics: Any
    extra: Any = ()
    running: Any = ()


class _InitState(Protocol):
    def __call__(self, weights: Placed, /) -> Any: ...


class _Distribute(Protocol):
    def __call__(self, state: Placed, weights: Placed, /) -> MeasuredProcessOutput: ...


class Distributor(NamedTuple):
    """How the server's weights get to the clients: pure functions over placed values.

    Attributes:
      init: `(weights at SERVER) -> state at SERVER`.
      next: `(state, weights at SERVER) -> MeasuredProcessOutput(state, sent at CLIENTS, measurements at SERVER)`.
        What is sent is what the client work takes: the weights, or a part of them.
    """

    init: _InitState
    next: _Distribute


class _Run(Protocol):
    def __call__(self, state: Placed, weights: Placed, data: Placed, key: Placed, /) -> tuple[Any, Any]: ...


class _Commit(Protocol):
    def __call__(self, state: Placed, result: Placed, included: Placed, shared: Placed, /) -> MeasuredProcessOutput: ...


class ClientWork(NamedTuple):
    """What every client does in a round: pure functions over placed values.

    `run` reads the state, and only `commit` gives a new one, from results that the round has guarded: what a
    client without a finite result computed cannot reach any state.

    Attributes:
      init: `(weights at SERVER) -> state at SERVER`.
      run: `(state, weights, data, key) -> (result, shared)`. The state is at SERVER; the weights are what the
        distributor sent, at CLIENTS as data and key are. The result is a `ClientResult` at CLIENTS, `shared` a
        value at SERVER that `commit` takes, `()` for most. What `run` itself aggregates goes through
        `algorithms.guarded_mean`, and no noise of the aggregator is in it. A further parameter of the name
        `round_num`, int32 at SERVER, is given the number of rounds before this one.
      commit: `(state, result, included, shared) -> MeasuredProcessOutput(state, metrics, measurements)`, all at
        SERVER. The result is guarded: zeros in every field for an unfit client. `included` is bool at CLIENTS:
        the client is fit and contributes. The state counts only if the round does.
    """

    init: _InitState
    run: _Run | Callable[..., tuple[Any, Any]]
    commit: _Commit


class _InitAggregator(Protocol):
    def __call__(self, value_type: types.Type, /) -> Any: ...


class _Aggregate(Protocol):
    def __call__(self, state: Placed, value: Placed, weight: Placed, /) -> MeasuredProcessOutput: ...


class Aggregator(NamedTuple):
    """How the clients' updates become one: pure functions over placed values.

    One aggregator wraps another by calling it:

    ```python
    def clip_by_norm(max_norm, inner):
        def next(state, value, weight):
            clipped = fc.federated_map(partial(trees.clip_by_norm, max_norm), value)
            return inner.next(state, clipped, weight)
        return inner._replace(next=next)
    ```

    Attributes:
      init: `(type of a client's value) -> state at SERVER`.
      next: `(state, value at CLIENTS, weight at CLIENTS) -> MeasuredProcessOutput(state, result at
        SERVER, measurements at SERVER)`. The weight is a float32 scalar, or a pytree of float32 arrays, of
        which an aggregator that takes scalars alone raises a `TypeError`.
      always_releases: whether a result counts even if nobody contributed, as a noised one does.
    """

    init: _InitAggregator
    next: _Aggregate
    always_releases: bool = False


class _Move(Protocol):
    def __call__(self, state: Placed, weights: Placed, update: Placed, /) -> MeasuredProcessOutput: ...


class Finalizer(NamedTuple):
    """How the server moves its weights: pure functions over placed values.

    Attributes:
      init: `(trainable weights at SERVER) -> state at SERVER`.
      next: `(state, trainable weights, update) -> MeasuredProcessOutput(state, new weights,
        measurements)`, all at SERVER. A further parameter of the name `value` is given a function without
        arguments: it gives the training loss of the round, float32 at SERVER, or raises a `TypeError` with
        the reason why there is none.
    """

    init: _InitState
    next: _Move | Callable[..., MeasuredProcessOutput]


class _CreateAggregation(Protocol):
    def __call__(self, metric_finalizers: Any, local_unfinalized_metrics_type: types.Type, /) -> AggregationProcess: ...


class MetricsAggregation(NamedTuple):
    """How the clients' metrics are combined.

    Attributes:
      create: `(metric_finalizers, local_unfinalized_metrics_type) -> AggregationProcess` without a
        weight. The finalizers are a dict of `Metric.finalize` by name.
    """

    create: _CreateAggregation
