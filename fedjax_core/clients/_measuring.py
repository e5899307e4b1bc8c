"""The weights, the running state and the statistics of a model, as client work needs them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core._own_errors import raise_if_own
from fedjax_core.contracts import Metric, Model, ModelWeights, Running
from fedjax_core.language.graph import IntegerRange
from fedjax_core.model_calls import model_metrics, predicted


def trainable_of(weights):
    """The trainable part of a model's weights: all of them, unless they are `ModelWeights`.

    Example:

    >>> trainable_of(ModelWeights({"w": 1.0}, {"scale": 2.0})), trainable_of({"w": 1.0})
    ({'w': 1.0}, {'w': 1.0})
    """
    return weights.trainable if isinstance(weights, ModelWeights) else weights


def with_trainable(weights, trainable):
    """Replaces the trainable part of a model's weights.

    Example:

    >>> with_trainable(ModelWeights({"w": 1.0}, {"scale": 2.0}), {"w": 3.0})
    ModelWeights(trainable={'w': 3.0}, non_trainable={'scale': 2.0})
    >>> with_trainable({"w": 1.0}, {"w": 3.0})
    {'w': 3.0}
    """
    return weights._replace(trainable=trainable) if isinstance(weights, ModelWeights) else trainable


def measure(metrics: Mapping[str, Metric], predictions, batch, mask) -> dict:
    """The statistics of one batch by name."""
    return {name: metric.measure(predictions, batch, mask) for name, metric in metrics.items()}


def abstract_statistics(model: Model) -> dict:
    """The abstract statistics of a model's metrics, which are the same for every batch size.

    Raises:
      TypeError: the model does not take batches of its `batch_type`, or the shape of a statistic depends on the
        batch size.

    Example:

    >>> import fedjax_core as fc
    >>> abstract_statistics(fc.models.logistic_regression(2, 3))["num_examples"]
    ShapeDtypeStruct(shape=(), dtype=int32)
    """
    run = _statistics(model)

    one, two = (_shapes(_MEASURED, run, *_abstract_batch(model, size))[0] for size in (1, 2))
    if types.type_of(one) != types.type_of(two):
        raise TypeError(
            "a metric's statistic must have one shape for batches of any size, but for one example the statistics are "
            f"{types.type_of(one)} and for two {types.type_of(two)}; sum over the batch in `measure`"
        )
    return one


_MEASURED = "the model and its metrics on its `batch_type`"


def integer_ranges(model: Model) -> tuple[IntegerRange, ...]:
    """The integers that a model expects in the fields of a batch, which the engine checks where it reads examples.

    They are the ranges that two functions of the model declare as their attribute `integer_ranges`: `predict` a
    sequence of them, for its inputs, and `loss` a function from the shapes of the predictions to a sequence, for its
    labels. The models and losses of the room `models` have them.

    Args:
      model: the model.

    Example:

    >>> import fedjax_core as fc
    >>> integer_ranges(fc.models.logistic_regression(4, 10))[0][:3]
    ('y', 0, 9)
    """
    of_inputs, of_predictions = (getattr(fn, "integer_ranges", None) for fn in (model.predict, model.loss))
    if of_predictions is None:
        return tuple(of_inputs or ())
    try:
        _, predictions = _shapes(_MEASURED, _statistics(model), *_abstract_batch(model, 1))
    except TypeError:  # client work of one's own may call the model with other weights than `init` gives
        return tuple(of_inputs or ())
    return (*(of_inputs or ()), *of_predictions(predictions))


def abstract_example(model: Model) -> tuple[Any, Any]:
    """The abstract prediction for one example and the example itself, without the dimension of a batch's rows.

    Raises:
      TypeError: the model does not take batches of its `batch_type`, or a prediction has no dimension for the rows.
    """
    batch, _ = _abstract_batch(model, 1)
    predictions = [_shapes(_MEASURED, _statistics(model), *_abstract_batch(model, size))[1] for size in (1, 2)]

    def without_rows(one, two):
        if two.shape[:1] != (2 * one.shape[0] if one.shape else 0,) or one.shape[1:] != two.shape[1:]:
            raise TypeError(f"predictions must have one row for each example, got {one.shape} for one")
        return jax.ShapeDtypeStruct(one.shape[1:], one.dtype)

    return jax.tree.map(without_rows, *predictions), jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch
    )


def _statistics(model: Model) -> Callable:
    """The function from a key and a batch to the statistics and the predictions of a model."""
    model_metrics(model)  # raises where a metric is wrong
    pairs = model._replace(metrics=tuple(model.metrics.items()))
    try:
        return _kept_statistics(pairs)
    except TypeError:  # a function that cannot be hashed, such as an object that compares its fields
        return _new_statistics(pairs)


def _new_statistics(pairs: Model) -> Callable:
    """The function of the model whose metrics are these pairs of a name and a metric, so that it can be hashed."""
    model = pairs._replace(metrics=dict(pairs.metrics))
    metrics = model_metrics(model)

    def run(key, batch, mask):
        predictions = predicted(model, model.init(key), batch, mask).predictions
        return measure(metrics, predictions, batch, mask), predictions

    return run


# Kept, since JAX does not trace the same function again: all parts of an algorithm ask for the statistics, and tracing
# a large model takes seconds. Few, since a function may hold the weights of a model.
_kept_statistics = functools.lru_cache(maxsize=4)(_new_statistics)


def has_running_state(model: Model) -> bool:
    """Whether the model updates its non-trainable weights in training.

    Raises:
      TypeError: the model does not take batches of its `batch_type`.

    Example:

    >>> import fedjax_core as fc
    >>> has_running_state(fc.models.logistic_regression(2, 3))
    False
    """

    def run(key, batch, mask):
        return predicted(model, model.init(key), batch, mask, key, training=True).non_trainable

    if not isinstance(_shapes("the model's `init`", model.init), ModelWeights):
        return False
    return bool(jax.tree.leaves(_shapes("the model on its `batch_type`", run, *_abstract_batch(model, 1))))


def with_running(weights, non_trainable):
    """The weights with the running state after a batch; unchanged if that is `()`."""
    return weights._replace(non_trainable=non_trainable) if jax.tree.leaves(non_trainable) else weights


def running_of(weights, moves: bool):
    """The non-trainable weights that a client carries from step to step: all if training moves them, otherwise `()`."""
    return weights.non_trainable if moves else ()


def running_result(model: Model, non_trainable, num_examples):
    """The running state that a client sends: a `Running`, or `()` if there is none or the client keeps it."""
    is_sent = model.running == "average" and jax.tree.leaves(non_trainable)
    return Running(non_trainable, num_examples) if is_sent else ()


def _abstract_batch(model: Model, size: int) -> tuple:
    batch = jax.tree.map(lambda t: _sized(t, size), types.tree_of_types(model.batch_type))
    return batch, jax.ShapeDtypeStruct(jax.tree.leaves(batch)[0].shape[:1], jnp.bool_)


def _sized(tensor: types.TensorType, size: int) -> jax.ShapeDtypeStruct:
    assert tensor.shape is not None  # a batch has rows
    return jax.ShapeDtypeStruct(tuple(size if d is None else d for d in tensor.shape), tensor.dtype)


def _shapes(described: str, fn, *args):
    """The abstract result of `fn(key, *args)`."""
    try:
        return jax.eval_shape(fn, jax.eval_shape(lambda: jax.random.key(0)), *args)
    except Exception as error:
        message = f"{described} cannot be traced: {type(error).__name__}: {error}"
        raise_if_own(error, message)
        raise TypeError(message) from error


def weights_type(model: Model) -> types.Type:
    """The type of a model's weights.

    Raises:
      TypeError: `init` fails, or a trainable weight is not floating point.

    Example:

    >>> import fedjax_core as fc
    >>> str(weights_type(fc.models.logistic_regression(2, 3)))
    '<bias=float32[3],kernel=float32[2,3]>'
    """
    weights = _shapes("the model's `init`", model.init)
    for path, part in types.type_leaves(types.type_of(trainable_of(weights))):
        leaf = types.of_kind(part, types.TensorType)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"trainable weights must be floating point numbers, but {path!r} is {leaf}; keep it in "
                "ModelWeights(trainable, non_trainable)"
            )
    return types.type_of(weights)
