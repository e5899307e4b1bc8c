"""Keras losses as losses of the single examples."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core._own_errors import raise_if_own
from fedjax_core.language.graph import IntegerRange
from fedjax_core.models._keras_calls import keras_promotion

_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "none", None)


def loss_of(
    keras: Any, loss: Any, label: str, outputs: Any, batch_type: types.StructType, hands_on_mask: bool
) -> Callable:
    """The loss of a model, `(predictions, batch) -> [B]`.

    Args:
      keras: the module `keras`.
      loss: a Keras loss (an object, a function of `y_true` and `y_pred`, or a name), or a loss of the room `models`,
        which is returned unchanged.
      label: the batch field that becomes `y_true`.
      outputs: the abstract predictions for two examples.
      batch_type: the type of a batch.
      hands_on_mask: whether the predictions carry a Keras mask, which Keras losses would use.

    Raises:
      TypeError: `loss` is none of these.
      ValueError: the batch has no field `label`, there is no loss with that name, the loss does not give one value
        per example, or Keras would average it over something other than examples.
    """
    if isinstance(loss, str) or inspect.isclass(loss):
        loss = _named(keras, loss)
    if not isinstance(loss, keras.losses.Loss) and not _is_keras_function(loss):
        if not callable(loss):
            raise TypeError(
                f"from_keras(loss=...) must be a Keras loss or a function of predictions and batch, got {loss!r}; "
                "write keras.losses.SparseCategoricalCrossentropy() or fc.models.cross_entropy()"
            )
        return loss
    check_label("loss", label, batch_type)
    name = getattr(loss, "name", None) or loss.__name__
    _check_weighs_alike(loss, name, hands_on_mask)
    values_of = _in_its_dtype(loss) if isinstance(loss, keras.losses.Loss) else loss
    is_sparse = _is_sparse(keras, loss)

    def per_example(predictions, batch):
        with keras_promotion():
            values = values_of(batch[label], predictions)
        values = jnp.mean(values, axis=tuple(range(1, values.ndim)))
        return _nan_where_unknown(values, predictions, batch[label]) if is_sparse else values

    per_example.__qualname__ = name
    if is_sparse:
        per_example.integer_ranges = lambda predictions: (IntegerRange(label, 0, predictions.shape[-1] - 1),)
    _check_for_each_example(per_example, name, outputs, types.tree_of_types(batch_type))
    return per_example


def check_label(what: str, label: str, batch_type: types.StructType) -> None:
    """Raises ValueError unless a batch has the field that Keras losses and metrics compare with.

    Example:
      >>> check_label("loss", "label", types.to_type({"x": "float32[?,3]", "y": "int32[?]"}))
      Traceback (most recent call last):
      ValueError: from_keras(label=...) must name the batch field that a Keras loss takes as `y_true`, got 'label',
        which is not one of <x=float32[?,3],y=int32[?]>; write `label=NAME`
    """
    if label not in batch_type.names:
        raise ValueError(
            f"from_keras(label=...) must name the batch field that a Keras {what} takes as `y_true`, got {label!r}, "
            f"which is not one of {batch_type}; write `label=NAME`"
        )


def _named(keras: Any, loss: Any) -> Any:
    try:
        return loss() if inspect.isclass(loss) else keras.losses.get(loss)
    except ValueError as error:
        raise ValueError(
            f"there is no Keras loss {loss!r}; see keras.losses, or write fc.models.cross_entropy()"
        ) from error


def _is_keras_function(loss: Any) -> bool:
    try:
        return list(inspect.signature(loss).parameters)[:2] == ["y_true", "y_pred"]
    except (TypeError, ValueError):
        return False


def _in_its_dtype(loss: Any) -> Callable:
    """The loss before its reduction, with its arguments converted to the loss's dtype."""

    def values_of(labels, predictions):
        return loss.call(*(jax.tree.map(lambda x: jnp.asarray(x, loss.dtype), x) for x in (labels, predictions)))

    return values_of


def _check_weighs_alike(loss: Any, name: str, hands_on_mask: bool) -> None:
    """Raises ValueError for a loss that Keras does not average over examples alone.

    Losses of the single examples could not have the same average.
    """
    reduction = getattr(loss, "reduction", None)
    rule = "the loss of a client is the mean over its examples"
    if reduction not in _MEANS:
        raise ValueError(
            f"{rule}, but {name!r} has reduction={reduction!r}; write reduction='sum_over_batch_size' and scale the "
            "learning rate of the clients instead"
        )
    if getattr(loss, "ignore_class", None) is not None:
        raise ValueError(
            f"{rule}, but {name!r} ignores a class and so averages over some of them only; leave ignore_class out, or "
            "for sequences write fc.models.sequence_cross_entropy(pad=0)"
        )
    if hands_on_mask:
        raise ValueError(
            f"{rule}, but a layer of the model masks its input (mask_zero=True), and Keras averages {name!r} over the "
            "rest; for sequences write fc.models.sequence_cross_entropy(pad=0)"
        )


def _check_for_each_example(per_example: Callable, name: str, outputs: Any, fields: Any) -> None:
    for size in (2, 5):
        batch, predictions = (jax.tree.map(functools.partial(_sized, size), tree) for tree in (fields, outputs))
        try:
            found = jax.eval_shape(per_example, predictions, batch)
        except Exception as error:
            message = (
                f"the Keras loss {name!r} does not fit predictions {_described(predictions)} and a batch "
                f"{_described(batch)}: {type(error).__name__}: {error}; write a loss of predictions and batch that "
                "gives the shape [B]"
            )
            raise_if_own(error, message)
            raise ValueError(message) from error
        if found.shape != (size,):
            raise ValueError(
                f"a model's loss must give one value per example, got the shape {found.shape} of {name!r} for "
                f"{size} examples; write a loss of predictions and batch that gives the shape [B]"
            )


def _sized(size: int, leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size, *(3 if d is None else d for d in leaf.shape[1:])), leaf.dtype)


def _described(tree: Any) -> str:
    return str(types.type_of(tree))


def _is_sparse(keras: Any, loss: Any) -> bool:
    return isinstance(loss, keras.losses.SparseCategoricalCrossentropy) or (
        loss is keras.losses.sparse_categorical_crossentropy
    )


def _nan_where_unknown(values, predictions, labels):
    """NaN for labels outside the classes: with Keras's own loss of 0 they would count and train nothing."""
    known = (labels >= 0) & (labels < predictions.shape[-1])
    known = known.reshape(values.shape[0], -1).all(axis=1)
    return jnp.where(known, values, jnp.nan)
