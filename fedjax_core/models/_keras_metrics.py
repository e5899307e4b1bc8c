"""Keras metrics as metrics whose statistics add up."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import trees, types
from fedjax_core._own_errors import raise_if_own
from fedjax_core.contracts import Metric
from fedjax_core.models._keras_calls import keras_promotion
from fedjax_core.models._keras_losses import check_label

_BY_SHAPES = ("accuracy", "acc", "crossentropy", "ce")


def metrics_of(
    keras: Any,
    metrics: Mapping[str, Any] | Iterable[Any] | None,
    label: str,
    outputs: Any,
    batch_type: types.StructType,
) -> dict[str, Metric]:
    """The metrics of a model by name.

    Args:
      keras: the module `keras`.
      metrics: a list or a dict of Keras metrics (objects or names) or `Metric`s.
      label: the batch field that becomes `y_true`.
      outputs: the abstract predictions for two examples.
      batch_type: the type of a batch.

    Raises:
      TypeError: something is not a metric, or the state of a Keras metric does not add up over examples.
      ValueError: the batch has no field `label`, or there is no metric with a given name.
    """
    if metrics is None:
        return {}
    if isinstance(metrics, str) or not isinstance(metrics, Mapping | Iterable):
        raise TypeError(
            f"from_keras(metrics=...) must be a list or a dict of metrics, got {metrics!r}; write [{metrics!r}]"
        )
    if not isinstance(metrics, Mapping):
        metrics = {_name(metric): metric for metric in metrics}
    return {name: _metric_of(keras, metric, label, outputs, batch_type) for name, metric in metrics.items()}


def _name(metric: Any) -> str:
    name = metric if isinstance(metric, str) else getattr(metric, "name", None)
    if isinstance(metric, Metric) or not isinstance(name, str):
        raise TypeError(
            f"from_keras(metrics=[...]) must list Keras metrics, got {metric!r}; for others write {{'name': metric}}"
        )
    return name


def _metric_of(keras: Any, metric: Any, label: str, outputs: Any, batch_type: types.StructType) -> Metric:
    if isinstance(metric, Metric):
        return metric
    check_label("metric", label, batch_type)
    sample = _sample(outputs, batch_type, label)
    metric = _made(keras, metric, sample)
    _check_compares(metric)
    with keras_promotion():
        if not getattr(metric, "_built", True):  # some create their variables when they first see a batch
            metric.update_state(*sample)
            metric.reset_state()
    zeros = [jnp.asarray(np.array(variable.value)) for variable in metric.variables]
    _check_adds(metric, zeros, sample)
    return _additive(metric, zeros, label)


def _check_compares(metric: Any) -> None:
    parameters = list(inspect.signature(metric.update_state).parameters)
    if "sample_weight" in parameters[:2]:
        raise TypeError(
            f"from_keras(metrics=...) takes metrics that compare labels and predictions, but {metric.name!r} is "
            f"updated with ({', '.join(parameters)}); write keras.metrics.MeanMetricWrapper(function of y_true and "
            "y_pred)"
        )


def _additive(metric: Any, zeros: list, label: str) -> Metric:
    def measure(predictions, batch, mask):
        def add_kept(state):
            kept = jnp.expand_dims(mask, tuple(range(1, state.ndim)))
            return jnp.sum(jnp.where(kept, state, 0), axis=0, dtype=state.dtype)

        # One example at a time, so that whatever a padding row holds, even NaN, is left out entirely.
        states = jax.vmap(lambda *one: _updated(metric, zeros, *_batch_of_one(one)))(batch[label], predictions)
        return [add_kept(state) for state in states], jnp.sum(mask, dtype=jnp.int32)

    def finalize(statistic):
        state, number = statistic
        with keras_promotion():
            value = metric.stateless_result(state)
        # Keras gives 0 where nothing was measured.
        return jax.tree.map(lambda x: jnp.where(number > 0, x, jnp.nan) if _is_float(x) else x, value)

    return Metric(measure, finalize)


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def _batch_of_one(example: Any) -> Any:
    return jax.tree.map(lambda x: x[None], example)


def _updated(metric: Any, state: list, labels: Any, predictions: Any) -> list:
    with keras_promotion():
        return metric.stateless_update_state(state, labels, predictions)


def _made(keras: Any, metric: Any, sample: tuple) -> Any:
    """The metric object for an object, a class, a function or a name of a metric."""
    if isinstance(metric, str) and metric in _BY_SHAPES:
        return _by_shapes(keras, metric, *sample)
    if isinstance(metric, str):
        metric = _named(keras, metric)
    if inspect.isclass(metric) and issubclass(metric, keras.metrics.Metric):
        metric = metric()
    if isinstance(metric, keras.metrics.Metric):
        return metric
    if callable(metric):
        return keras.metrics.MeanMetricWrapper(metric, name=getattr(metric, "__name__", "metric"))
    raise TypeError(
        f"from_keras(metrics=...) takes Keras metrics and fc.Metric, got {metric!r}; write "
        "keras.metrics.SparseCategoricalAccuracy()"
    )


def _named(keras: Any, name: str) -> Any:
    try:
        return keras.metrics.get(name)
    except ValueError as error:
        raise ValueError(f"there is no Keras metric {name!r}; see keras.metrics") from error


def _by_shapes(keras: Any, name: str, labels: np.ndarray, predictions: np.ndarray) -> Any:
    """The metric that `Model.compile` chooses, by the shapes, for a name that stands for several metrics."""
    kinds = ("Accuracy", "accuracy") if name.startswith("acc") else ("Crossentropy", "crossentropy")
    if predictions.shape[-1] == 1 or predictions.ndim == 1:
        kind = "Binary"
    elif labels.ndim < predictions.ndim or labels.shape[-1] == 1:
        kind = "SparseCategorical"
    else:
        kind = "Categorical"
    return getattr(keras.metrics, kind + kinds[0])(name=name)


def _sample(outputs: Any, batch_type: types.StructType, label: str) -> tuple[Any, Any]:
    """Random labels and predictions for 7 examples: classes 0 and 1, and probabilities."""
    random = np.random.default_rng(0)

    def labels(tensor):
        shape = (7, *(3 if d is None else d for d in tensor.shape[1:]))
        if jnp.issubdtype(tensor.dtype, jnp.floating):
            return random.uniform(size=shape).astype(tensor.dtype)
        return random.integers(0, 2, shape).astype(tensor.dtype)

    def predictions(output):
        values = random.uniform(size=(7, *output.shape[1:])).astype(output.dtype)
        return values / values.sum(axis=-1, keepdims=True) if values.ndim > 1 and values.shape[-1] > 1 else values

    return jax.tree.map(labels, types.tree_of_types(batch_type[label])), jax.tree.map(predictions, outputs)


def _check_adds(metric: Any, zeros: list, sample: tuple) -> None:
    """Raises TypeError unless a metric's state starts from zeros and is the sum of the states of single examples."""
    rule = f"a metric's statistics are added over batches and clients, so the state of {metric.name!r} must add up"
    repaired = "write a fc.Metric(measure, finalize) whose statistic adds up, or measure it after the run"
    if not zeros or any(np.any(np.asarray(leaf) != 0) for leaf in zeros):
        raise TypeError(f"{rule} from zeros, got {zeros!r}; {repaired}")

    def in_four_ways(sample):
        first, second = (jax.tree.map(lambda x, rows=rows: x[rows], sample) for rows in (slice(3), slice(3, None)))
        one_by_one = jax.vmap(lambda *one: _updated(metric, zeros, *_batch_of_one(one)))(*sample)
        return (
            _updated(metric, zeros, *sample),
            _updated(metric, _updated(metric, zeros, *first), *second),
            trees.add(_updated(metric, zeros, *first), _updated(metric, zeros, *second)),
            [state.sum(axis=0) for state in one_by_one],
        )

    try:
        whole, *others = jax.jit(in_four_ways)(sample)  # one program, as Keras's operations one by one take seconds
    except Exception as error:
        message = f"the Keras metric {metric.name!r} cannot be measured: {type(error).__name__}: {error}; {repaired}"
        raise_if_own(error, message)
        raise TypeError(message) from error
    for other in others:
        if not all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(whole, other, strict=True)):
            raise TypeError(f"{rule}, but it does not; {repaired}")
