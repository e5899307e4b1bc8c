"""The contracts that the catalogue rooms fulfil: NamedTuples of pure functions.

Axis letters: `B` examples of a batch. A batch is a pytree whose leaves have the leading axis
`B`, by convention a dict with the inputs `x` and the labels `y`. A `mask` is bool `[B]`, False
on padding. Code that calls a model does so through `model_calls.predicted` and `model_calls.losses`, and masks
the losses.

The protocols that type the fields name the parameters, for editors. Parameters before a `/` are passed by position,
so your function may name them differently. If a field is typed `... | Callable`, your function may have a further
parameter, which is recognized by its name.
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
    """Weights that are only partly trained.

    `Model.init` returns them if a model has more than trainable weights, for example the running
    averages of a batch normalization. Both parts are broadcast to the clients. Only `trainable` is
    updated by gradients; `Model.running` says what happens to running state in `non_trainable`.

    Attributes:
      trainable: a pytree of floating point arrays, with respect to which the gradient is taken.
      non_trainable: a pytree of arrays of any dtype, constant unless `predict` returns a new one in training.

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
    """A measure of predictions whose statistics can be added up over batches and clients.

    `measure` computes a statistic of one batch. Statistics of two batches, or of two clients, are
    added leaf by leaf, and `finalize` turns the total into the reported value. So a mean is
    measured as a sum and a count. Both functions are pure and JAX-traceable.

    Attributes:
      measure: `(predictions, batch, mask) -> statistic`. `predictions` is what the model's
        `predict` returned for `batch`; `mask` is bool `[B]`. The statistic is a pytree of arrays
        whose shapes do not depend on `B`. Examples whose mask is False must not change it, even if they
        are NaN: select with `jnp.where`, since `nan * 0` is NaN.
      finalize: `(statistic) -> value`, a pytree of arrays. If no example was measured, the value
        must be NaN (0/0), not a made-up zero. Totals of integers have at least 32 bits. If one exceeds them, the
        values that are floats are those of floats in place of the integers, which `finalize` must take, and the
        values that are integers are those of the largest integer in place of it.

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
    """A model as pure functions; the adapters of the room `models` make one of a flax, Keras or equinox module.

    Attributes:
      init: `(key) -> weights`. `key` is a typed JAX key. The weights are a pytree of arrays, all of
        them trainable, or `ModelWeights(trainable, non_trainable)`.
      predict: `(weights, batch, key=None, training=False) -> predictions`, a pytree with the
        leading axis `B`. It reads the inputs and never the labels. With `key=None` and
        `training=False` it is deterministic; `training=True` turns on whatever happens only in
        training, such as dropout, with `key` as its source of randomness. If it has a parameter `mask`, it
        gets the batch's mask, so that a layer that combines rows can leave padding out; without one, the
        rows must not depend on one another. In training it may return
        `Predicted(predictions, non_trainable)`, with the non-trainable weights as updated by the batch.
      loss: `(predictions, batch) -> losses`, floating point `[B]`, one for each example,
        neither averaged nor masked. It gets the mask, too, if it has a parameter `mask`, as a loss that
        compares rows needs it.
      metrics: the other metrics, a dict from name to `Metric`. The loss need not be among them:
        `model_calls.model_metrics` adds it.
      batch_type: the type of one batch, with `?` in place of `B`, for example
        `<x=float32[?,784],y=int32[?]>`.
      running: what happens to the running state, the non-trainable weights that `predict` returns in
        training. "average": the server averages the clients' running states after training, weighted by
        their numbers of examples. "keep": a client carries its running state from step to step and does
        not send it.

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
    """Predictions with the updated running state, which `Model.predict` may return in training.

    Attributes:
      predictions: a pytree with the leading axis `B`.
      non_trainable: like the `non_trainable` of the model's `ModelWeights`, with the running averages as updated
        by this batch; `()` if there is no running state.

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

    `compose` averages it over the clients, weighted by examples, and the average becomes the `non_trainable` part
    of the server's weights.

    Attributes:
      state: of the type of the model's `ModelWeights.non_trainable`. Its floating point leaves are averaged; the
        server keeps its own values of all other leaves.
      num_examples: float32 `[]`, the number of examples that the state was computed from, its weight in the average.
    """

    state: Any
    num_examples: Any


class ClientResult(NamedTuple):
    """What a client returns in a round of learning.

    A NaN or infinity in any field makes the client unfit: the round continues as if it had not taken part.

    Attributes:
      update: a pytree of arrays, whatever the aggregator takes. Usually it is a pseudo-gradient, the initial minus
        the trained weights.
      weight: float32 `[]`, the client's weight in the mean; zero for a client that processed no example. It may be
        a pytree of float32 arrays if the aggregator takes several weights, for example one per cluster. A client
        contributes if any entry is positive.
      metrics: the statistics of its metrics by name, see `Metric.measure`.
      extra: a pytree of arrays for the client work's own `commit`; the aggregator does not see it, so it adds no
        noise to it.
      running: the `Running` state of the model after the client's training, or `()`.
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
        The client work takes what is sent: the weights, or a part of them.

    Example: a stateless distributor that sends the weights in half precision.

    >>> import fedjax_core as fc
    >>> def nothing():
    ...     return fc.federated_value((), fc.SERVER)
    >>> def next(state, weights):
    ...     half = fc.federated_map(lambda weights: weights.astype("float16"), weights)
    ...     sent = fc.federated_map(lambda half: half.astype("float32"), fc.federated_broadcast(half))
    ...     return MeasuredProcessOutput(state, sent, nothing())
    >>> distributor = Distributor(init=lambda weights: nothing(), next=next)
    >>> @fc.federated_computation(fc.at_server("float32[3]"), fc.at_clients("int32"))
    ... def distribute(weights, clients):
    ...     return distributor.next(distributor.init(weights), weights).result
    >>> print(distribute.type_signature.result)
    float32[3]@CLIENTS
    """

    init: _InitState
    next: _Distribute


class _Run(Protocol):
    def __call__(self, state: Placed, weights: Placed, data: Placed, key: Placed, /) -> tuple[Any, Any]: ...


class _Commit(Protocol):
    def __call__(self, state: Placed, result: Placed, included: Placed, shared: Placed, /) -> MeasuredProcessOutput: ...


class ClientWork(NamedTuple):
    """What every client does in a round: pure functions over placed values.

    `run` only reads the state. `commit` alone returns a new one, and it sees only guarded results: whatever an
    unfit client computed cannot reach any state.

    Attributes:
      init: `(weights at SERVER) -> state at SERVER`.
      run: `(state, weights, data, key) -> (result, shared)`. The state is at SERVER; the weights, as the
        distributor sent them, the data and the key are at CLIENTS. `result` is a `ClientResult` at CLIENTS;
        `shared` is a value at SERVER for `commit`, in most cases `()`. Whatever `run` itself aggregates must go
        through `algorithms.guarded_mean`, and the aggregator adds no noise to it. If `run` has a further parameter
        named `round_num`, it gets the number of rounds before this one, int32 at SERVER.
      commit: `(state, result, included, shared) -> MeasuredProcessOutput(state, metrics, measurements)`, all at
        SERVER. The result is guarded: every field of an unfit client is zero. `included` is bool at CLIENTS,
        True if the client is fit and contributes. The new state is kept only if the round is accepted.

    Example: every client returns the distance of the weights from the mean of its examples.

    >>> import jax.numpy as jnp, fedjax_core as fc
    >>> def nothing():
    ...     return fc.federated_value((), fc.SERVER)
    >>> def distance(weights, data):
    ...     count = data.num_examples.astype("float32")
    ...     return ClientResult(weights - data.sum()["x"] / jnp.maximum(count, 1), weight=count, metrics={})
    >>> work = ClientWork(
    ...     init=lambda weights: nothing(),
    ...     run=lambda state, weights, data, key: (fc.federated_map(distance, weights, data), nothing()),
    ...     commit=lambda state, result, included, shared: MeasuredProcessOutput(state, nothing(), nothing()),
    ... )
    >>> @fc.federated_computation(fc.at_clients("float32"), fc.at_clients("<x=float32[?]>*"), fc.at_clients("key<fry>"))
    ... def run(weights, data, key):
    ...     return work.run(nothing(), weights, data, key)[0]
    >>> print(run.type_signature.result)
    {<update=float32,weight=float32,metrics=<>,extra=<>,running=<>>}@CLIENTS
    """

    init: _InitState
    run: _Run | Callable[..., tuple[Any, Any]]
    commit: _Commit


class _InitAggregator(Protocol):
    def __call__(self, value_type: types.Type, /) -> Any: ...


class _Aggregate(Protocol):
    def __call__(self, state: Placed, value: Placed, weight: Placed, /) -> MeasuredProcessOutput: ...


class Aggregator(NamedTuple):
    """How the clients' updates are combined into one: pure functions over placed values.

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
        SERVER, measurements at SERVER)`. The weight is a float32 scalar, or a pytree of float32 arrays; an
        aggregator that takes only scalars raises TypeError for the latter.
      always_releases: whether a result counts even if no client contributed, as a noised result does.
      noise_multiplier: the standard deviation of the Gaussian noise that hides a client, as a multiple of the largest
        norm of what one client adds to the sum; 0.0 for none. The accounting of a run is checked against it.
    """

    init: _InitAggregator
    next: _Aggregate
    always_releases: bool = False
    noise_multiplier: float = 0.0


class _Move(Protocol):
    def __call__(self, state: Placed, weights: Placed, update: Placed, /) -> MeasuredProcessOutput: ...


class Finalizer(NamedTuple):
    """How the server applies the combined update to its weights: pure functions over placed values.

    Attributes:
      init: `(trainable weights at SERVER) -> state at SERVER`.
      next: `(state, trainable weights, update) -> MeasuredProcessOutput(state, new weights,
        measurements)`, all at SERVER. A measurement named `update_rejected` that is not zero also keeps the
        running state of the model as it was. If `next` has a further parameter named `value`, it gets a function
        without arguments that returns the training loss of the round, float32 at SERVER, or raises
        TypeError with the reason why there is none.

    Example: a step of size 1, counted in the state.

    >>> import fedjax_core as fc
    >>> def next(state, weights, update):
    ...     steps = fc.federated_map(lambda steps: steps + 1, state)
    ...     moved = fc.federated_map(lambda w, u: w - u, weights, update)
    ...     return MeasuredProcessOutput(steps, moved, fc.federated_zip({"steps": steps}))
    >>> finalizer = Finalizer(init=lambda weights: fc.federated_value(0, fc.SERVER), next=next)
    >>> @fc.federated_computation(fc.at_server("float32[3]"), fc.at_server("float32[3]"))
    ... def move(weights, update):
    ...     return finalizer.next(finalizer.init(weights), weights, update)
    >>> print(move.type_signature.result)
    <state=int32@SERVER,result=float32[3]@SERVER,measurements=<steps=int32>@SERVER>
    """

    init: _InitState
    next: _Move | Callable[..., MeasuredProcessOutput]


class _CreateAggregation(Protocol):
    def __call__(self, metric_finalizers: Any, local_unfinalized_metrics_type: types.Type, /) -> AggregationProcess: ...


class MetricsAggregation(NamedTuple):
    """How the clients' metrics are combined.

    Attributes:
      create: `(metric_finalizers, local_unfinalized_metrics_type) -> AggregationProcess` without a
        weight. The finalizers are a dict from a metric's name to its `Metric.finalize`.
    """

    create: _CreateAggregation
