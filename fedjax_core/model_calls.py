"""How a model is called: its predictions, its losses and its metrics on a batch.

All code that calls a model does so through these functions, so that the mask, the running state and the values
that a model may return are handled in one place. Axis letters: `B` examples of a batch.

predicted      the predictions of a model for a batch, with its updated running state
losses         the losses of a batch's examples
model_metrics  all metrics of a model by name, including its loss
mean_loss, num_examples    the two metrics that every model has
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core import _checks, types
from fedjax_core._signposts import signpost
from fedjax_core.contracts import Metric, Model, ModelWeights, Predicted
from fedjax_core.language.rows import MASKED, takes_mask

__all__ = [
    "check_loss",
    "losses",
    "mean_loss",
    "model_metrics",
    "num_examples",
    "predicted",
]

signpost(__name__)


def predicted(
    model: Model,
    weights: Any,
    batch: Any,
    mask: jax.Array | None = None,
    key: jax.Array | None = None,
    training: bool = False,
) -> Predicted:
    """The predictions of a model for a batch, with its updated running state.

    Args:
      model: the model.
      weights: its weights.
      batch: the batch, with `B` examples.
      mask: bool `[B]`, False on padding; None if every row is an example.
      key: a JAX key, the model's source of randomness in training; None for no randomness.
      training: whether the model behaves as in training.

    Returns:
      A `Predicted`. Its `non_trainable` is `()` unless the model returns running state in training. A batch
      without examples leaves that state unchanged.

    Raises:
      TypeError: the running state does not have the type of the model's non-trainable weights.

    Example:

    >>> model = Model(
    ...     init=lambda key: jnp.ones(3),
    ...     predict=lambda weights, batch, key=None, training=False: batch["x"] @ weights,
    ...     loss=lambda predictions, batch: (predictions - batch["y"]) ** 2,
    ...     metrics={},
    ...     batch_type=types.parse_type("<x=float32[?,3],y=float32[?]>"),
    ... )
    >>> predicted(model, jnp.ones(3), {"x": jnp.ones((2, 3)), "y": jnp.ones(2)})
    Predicted(predictions=Array([3., 3.], dtype=float32), non_trainable=())
    """
    mode: dict[str, Any] = {"key": key, "training": True} if training else {"key": key} if key is not None else {}
    output = model.predict(weights, batch, **mode, **_mask_argument(model.predict, batch, mask))
    if not isinstance(output, Predicted):
        return Predicted(output)
    if not training or not jax.tree.leaves(output.non_trainable):
        return Predicted(output.predictions)
    _check_running(weights, output.non_trainable)
    if mask is None:
        return output
    with jax.named_scope(MASKED):
        # Without any example the batch's statistics are meaningless: its mean is 0 or NaN.
        anyone = jnp.any(mask)
        kept = jax.tree.map(lambda new, old: jnp.where(anyone, new, old), output.non_trainable, weights.non_trainable)
    return output._replace(non_trainable=kept)


def losses(model: Model, predictions: Any, batch: Any, mask: jax.Array | None = None) -> jax.Array:
    """The losses of a batch's examples.

    Args:
      model: the model.
      predictions: its predictions for the batch.
      batch: the batch, with `B` examples.
      mask: bool `[B]`, False on padding; None if every row is an example.

    Returns:
      Floating point `[B]`; the entries of padding are meaningless.

    Raises:
      ValueError: the loss does not return one value for each example.

    Example: in-batch negatives; the loss rewards scoring a row's own label above those of the other rows.

    >>> def loss(predictions, batch, mask):
    ...     scores = jnp.where(mask[None, :], predictions @ batch["y"].T, -jnp.inf)
    ...     return jax.nn.logsumexp(scores, axis=1) - jnp.diagonal(scores)
    >>> model = Model(
    ...     init=lambda key: (),
    ...     predict=lambda weights, batch, key=None, training=False: batch["x"],
    ...     loss=loss,
    ...     metrics={},
    ...     batch_type=types.parse_type("<x=float32[?,2],y=float32[?,2]>"),
    ... )
    >>> batch = {"x": jnp.eye(2), "y": jnp.eye(2)}
    >>> [round(float(value), 4) for value in losses(model, batch["x"], batch, jnp.array([True, True]))]
    [0.3133, 0.3133]
    """
    return _losses(model.loss, predictions, batch, mask)


def _losses(loss: Callable[..., jax.Array], predictions: Any, batch: Any, mask: jax.Array | None) -> jax.Array:
    values = loss(predictions, batch, **_mask_argument(loss, batch, mask))
    _check_per_example(values, jax.tree.leaves(batch)[0].shape[:1] if mask is None else jnp.shape(mask))
    return values


def _mask_argument(function: Callable, batch: Any, mask: jax.Array | None) -> dict[str, Any]:
    if not takes_mask(function):
        return {}
    return {"mask": jnp.ones(jax.tree.leaves(batch)[0].shape[0], bool) if mask is None else mask}


def _check_running(weights: Any, non_trainable: Any) -> None:
    expected = types.type_of(weights.non_trainable) if isinstance(weights, ModelWeights) else None
    found = types.type_of(non_trainable)
    if expected is None or not expected.is_equivalent_to(found):
        raise TypeError(
            "the running state that a model's `predict` returns in training must have the type of its non-trainable "
            f"weights, {'of which this model has none' if expected is None else expected}, got {found}; write "
            "`return Predicted(predictions, non_trainable)` with the structure, shapes and dtypes of "
            "`weights.non_trainable`, and let `init` return `ModelWeights(trainable, non_trainable)`"
        )


def mean_loss(loss: Callable[..., jax.Array]) -> Metric:
    """The mean of a per-example loss.

    Args:
      loss: `(predictions, batch) -> losses` `[B]`, like `Model.loss`; it may take the mask.

    Returns:
      A `Metric` with the statistic `(sum, count)`: the sum of the losses where the mask is True, float32 `[]`,
      and the number of these examples, int32 `[]`. Its value is `sum / count`, float32 `[]`,
      NaN if there was no example.

    Raises:
      ValueError: at the measurement, unless `loss` returns one value for each example.

    Example:
      >>> metric = mean_loss(lambda predictions, batch: predictions - batch["y"])
      >>> batch = {"y": jnp.array([1.0, 2.0, jnp.nan])}
      >>> statistic = metric.measure(jnp.array([2.0, 5.0, 0.0]), batch, jnp.array([True, True, False]))
      >>> [float(part) for part in statistic], float(metric.finalize(statistic))
      ([4.0, 2.0], 2.0)
    """

    def measure(predictions, batch, mask):
        values = _losses(loss, predictions, batch, mask)
        total = jnp.sum(jnp.where(mask, values, 0).astype(jnp.float32))
        return total, jnp.sum(mask, dtype=jnp.int32)

    measure.__module__ = getattr(loss, "__module__", None)  # it tells whether padding has to be tried on the metric

    def finalize(statistic):
        total, count = statistic
        return total / count.astype(jnp.float32)

    return Metric(measure, finalize)


def check_loss(loss: Any) -> None:
    """Raises TypeError unless `loss` may be called with the predictions and the batch.

    A loss of optax takes the labels themselves, and fails on a batch with an error that does not say so.

    Example:
      >>> import optax
      >>> check_loss(optax.squared_error)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      TypeError: a model's loss must be a function of the predictions and the batch, got squared_error(predictions, ...
    """
    found = _checks.shown(loss)
    if callable(loss):
        try:
            signature = inspect.signature(loss)
        except ValueError:  # some callables written in C have no signature
            return
        if _takes_batch(signature):
            return
        found = f"{getattr(loss, '__name__', type(loss).__name__)}({', '.join(signature.parameters)})"
    raise TypeError(
        f"a model's loss must be a function of the predictions and the batch, got {found}; write "
        "fc.models.cross_entropy(), or with a loss of optax lambda predictions, batch: "
        "optax.softmax_cross_entropy_with_integer_labels(predictions, batch['y'])"
    )


_LABELS = ("labels", "targets", "target", "y_pred", "y_true")  # second parameters of losses of optax, torch and Keras


def _takes_batch(signature: inspect.Signature) -> bool:
    mask = {"mask": None} if "mask" in signature.parameters else {}
    try:
        signature.bind(None, None, **mask)
    except TypeError:
        return False
    return not any(name in _LABELS for name in list(signature.parameters)[1:2])


def _check_per_example(losses, shape) -> None:
    if jnp.shape(losses) != shape:
        raise ValueError(
            f"a model's loss must return one value for each example, shape {shape}, got shape "
            f"{jnp.shape(losses)}; do not average over the batch, but do average over the other axes: "
            "`losses.mean(axis=tuple(range(1, losses.ndim)))`"
        )


def num_examples() -> Metric:
    """The number of examples.

    Returns:
      A `Metric` whose statistic and value are the number of examples whose mask is True, int32 `[]`; 2**31 - 1 stands
      for all larger totals.

    Example:
      >>> metric = num_examples()
      >>> metric.finalize(metric.measure(None, {}, jnp.array([True, True, False])))
      Array(2, dtype=int32)
    """

    def measure(predictions, batch, mask):
        return jnp.sum(mask, dtype=jnp.int32)

    return Metric(measure, lambda statistic: statistic)


def model_metrics(model: Model) -> dict[str, Metric]:
    """All metrics of a model: its loss, its own, and the number of examples.

    Args:
      model: the model.

    Returns:
      A new dict from name to `Metric`. The first is always "loss", and the last is "num_examples" unless the
      model has a metric of that name.

    Raises:
      TypeError: `model` is not a `Model`, its loss is not a function of predictions and batch, its `batch_type` is not
        the `Type` of a batch, or its `metrics` are not a dict from string to `Metric`.
      ValueError: `model.running` is neither "average" nor "keep", or a metric of the model's own is named "loss".

    Example:
      >>> count = Metric(lambda predictions, batch, mask: mask.sum(), lambda total: total)
      >>> model = Model(
      ...     init=lambda key: jnp.zeros(3),
      ...     predict=lambda weights, batch, key=None, training=False: batch["x"] @ weights,
      ...     loss=lambda predictions, batch: (predictions - batch["y"]) ** 2,
      ...     metrics={"count": count},
      ...     batch_type=types.parse_type("<x=float32[?,3],y=float32[?]>"),
      ... )
      >>> list(model_metrics(model))
      ['loss', 'count', 'num_examples']
    """
    _check_model(model)
    if not isinstance(model.metrics, Mapping):
        raise TypeError(
            "the metrics of a model must be a dict from name to Metric, got "
            f"{type(model.metrics).__name__}; for no metrics write `metrics={{}}`"
        )
    for name, metric in model.metrics.items():
        if not isinstance(name, str) or not isinstance(metric, Metric):
            function = getattr(metric, "__name__", None)
            called = "Metric(measure, finalize)" if function is None else f"{function}()"
            raise TypeError(
                "the metrics of a model must be a dict from name to Metric, got "
                f"{name!r}: {metric!r}; write `{{{str(name)!r}: {called}}}`"
            )
        if name == "loss":
            raise ValueError(
                'a metric of a model may not be named "loss", which is the mean of `Model.loss`; leave it out, or give '
                "it another name: {'own_loss': fc.metrics.loss(...)}"
            )
    counts = {} if "num_examples" in model.metrics else {"num_examples": num_examples()}
    return {"loss": mean_loss(model.loss), **model.metrics, **counts}


def _check_model(model) -> None:
    if not isinstance(model, Model):
        found = _checks.shown(model)
        raise TypeError(
            f"a model must be a fc.Model(init, predict, loss, metrics, batch_type), got {found}; make one of a flax "
            "module with fc.models.from_linen or fc.models.from_nnx"
        )
    check_loss(model.loss)
    if model.running not in ("average", "keep"):
        raise ValueError(
            f'Model(running=...) must be "average" or "keep", got {model.running!r}; to freeze the running state let '
            "`predict` return only the predictions"
        )
    fields = types.type_leaves(model.batch_type) if isinstance(model.batch_type, types.Type) else ()
    if not fields or not all(isinstance(field, types.TensorType) and field.shape for _, field in fields):
        raise TypeError(
            f"the batch_type of a model must be a Type whose fields have a dimension for the examples, got "
            f"{model.batch_type!r}; write fc.types.to_type({{'x': 'float32[?,784]', 'y': 'int32[?]'}})"
        )
