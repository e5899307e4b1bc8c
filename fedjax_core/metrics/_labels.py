"""Comparison of class scores with integer labels."""

import jax
import jax.numpy as jnp


def check_labels(metric: str, predictions, labels, label: str, axes: str) -> None:
    """Checks that `predictions` holds one score per class for every integer in `labels`.

    Args:
      metric: the name of the metric, for the message.
      predictions: should be floating point `[..., C]`.
      labels: should be integers `[...]`.
      label: the name of the batch field that holds the labels.
      axes: the axes that the labels should have, such as "B, T".

    Raises:
      TypeError: the labels are not integers.
      ValueError: the shapes do not fit together.

    Example:
      >>> check_labels("accuracy", jnp.zeros((5, 3)), jnp.zeros((5, 1), int), "y", "B")
      Traceback (most recent call last):
      ValueError: accuracy compares scores of shape [B, C] with labels of shape [B]; got predictions of
        shape (5, 3) and batch['y'] of shape (5, 1)
    """
    _check_integer_dtype(metric, labels, label)
    rank = axes.count(",") + 1
    if jnp.ndim(labels) != rank or jnp.shape(predictions)[:-1] != jnp.shape(labels):
        raise ValueError(
            f"{metric} compares scores of shape [{axes}, C] with labels of shape [{axes}]; got predictions "
            f"of shape {jnp.shape(predictions)} and batch[{label!r}] of shape {jnp.shape(labels)}"
        )


def check_integers(metric: str, values, label: str, axes: str) -> None:
    """Checks that `values` are integers with these axes.

    Args:
      metric: the name of the metric, for the message.
      values: should be integers.
      label: the name of the batch field that holds the values.
      axes: the axes that they should have, such as "B, T".

    Raises:
      TypeError: they are not integers.
      ValueError: they have another number of axes.

    Example:
      >>> check_integers("out_of_vocabulary_rate", jnp.zeros(5, int), "y", "B, T")
      Traceback (most recent call last):
      ValueError: out_of_vocabulary_rate takes integers of shape [B, T], got batch['y'] of shape (5,)
    """
    _check_integer_dtype(metric, values, label)
    if jnp.ndim(values) != axes.count(",") + 1:
        raise ValueError(
            f"{metric} takes integers of shape [{axes}], got batch[{label!r}] of shape {jnp.shape(values)}"
        )


def _check_integer_dtype(metric, values, label):
    if not jnp.issubdtype(jnp.result_type(values), jnp.integer):
        raise TypeError(
            f"{metric} compares with integer labels, got {jnp.result_type(values)} in batch[{label!r}]; "
            f"name the field of integers: `{metric}(label=...)`"
        )


def among_top(scores: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Whether the label is among the `k` highest scores.

    Args:
      scores: floating point `[..., C]`.
      labels: integers `[...]`.
      k: the number of scores that count. Of equal scores the lower class comes first, as in `jnp.argmax` and
        `jax.lax.top_k`.

    Returns:
      bool `[...]`; False where the label is outside `0..C-1` or any of the scores is NaN.

    Example:
      >>> among_top(jnp.array([[0.1, 0.9, 0.9]]), jnp.array([2]), 1)
      Array([False], dtype=bool)
      >>> among_top(jnp.array([[0.1, 0.9, 0.9]]), jnp.array([2]), 2)
      Array([ True], dtype=bool)
    """
    num_classes = scores.shape[-1]
    valid = (labels >= 0) & (labels < num_classes) & ~jnp.isnan(scores).any(axis=-1)
    column = jnp.where(valid, labels, 0)[..., None]
    own = jnp.take_along_axis(scores, column, axis=-1)
    classes = jnp.arange(num_classes).reshape((1,) * labels.ndim + (num_classes,))
    ahead = (scores > own) | ((scores == own) & (classes < column))
    return valid & (ahead.sum(axis=-1) < k)


def one_hot(classes: jax.Array, mask: jax.Array, num_classes: int) -> jax.Array:
    """The class of every example as a row with a single True.

    Args:
      classes: integers `[B]`.
      mask: bool `[B]`.
      num_classes: `C`.

    Returns:
      bool `[B, C]`; a row is all False where the mask is False or the class is outside `0..C-1`.

    Example:
      >>> print(one_hot(jnp.array([1, 0, 7]), jnp.ones(3, bool), 2).astype(int))
      [[0 1]
       [1 0]
       [0 0]]
    """
    return mask[:, None] & (classes[:, None] == jnp.arange(num_classes)[None, :])


def one_hot_predictions(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """The class of the highest score as a row with a single True; among equal scores, the lowest class.

    Args:
      scores: floating point `[B, C]`.
      mask: bool `[B]`.

    Returns:
      bool `[B, C]`; a row is all False where the mask is False or a score is NaN.

    Example:
      >>> print(one_hot_predictions(jnp.array([[0.1, 0.9], [0.5, 0.5]]), jnp.ones(2, bool)).astype(int))
      [[0 1]
       [1 0]]
    """
    num_classes = scores.shape[-1]
    highest = scores == jnp.max(scores, axis=-1, keepdims=True)  # False everywhere if a score is NaN
    # On a CPU this takes a third of the time of `jnp.argmax`, which took most of the metric's time.
    first = jnp.min(jnp.where(highest, jnp.arange(num_classes)[None, :], num_classes), axis=-1)
    return one_hot(first, mask, num_classes)


def check_binary(metric: str, predictions, labels, label: str, multilabel: bool = False) -> None:
    """Checks that `predictions` holds one score for every label.

    Args:
      metric: the name of the metric, for the message.
      predictions: should be real `[B]`.
      labels: should be integers or booleans `[B]`.
      label: the name of the batch field that holds the labels.
      multilabel: whether both should be `[B, C]` instead.

    Raises:
      TypeError: the labels are neither integers nor booleans.
      ValueError: the shapes do not fit together.

    Example:
      >>> check_binary("roc_auc", jnp.zeros((5, 2)), jnp.zeros(5, int), "y")
      Traceback (most recent call last):
      ValueError: roc_auc takes one score per example, [B], and labels of the same shape; got predictions of
        shape (5, 2) and batch['y'] of shape (5,). With two classes measure the second's probability:
        `metric._replace(measure=lambda p, b, m: metric.measure(jax.nn.softmax(p)[:, 1], b, m))`
    """
    dtype = jnp.result_type(labels)
    if not (jnp.issubdtype(dtype, jnp.integer) or dtype == jnp.bool_):
        raise TypeError(
            f"{metric} compares with labels 0 and 1, integers or booleans, got {dtype} in batch[{label!r}]; "
            f"name the field of labels: `{metric}(label=...)`"
        )
    found = f"got predictions of shape {jnp.shape(predictions)} and batch[{label!r}] of shape {jnp.shape(labels)}"
    same = jnp.shape(predictions) == jnp.shape(labels)
    if multilabel and not (same and jnp.ndim(labels) == 2):
        raise ValueError(
            f"{metric}(multilabel=True) takes one score for each class, [B, C], and labels 0 and 1 of the same shape; "
            f"{found}; for one class per example leave out `multilabel`"
        )
    if not multilabel and not (same and jnp.ndim(labels) == 1):
        raise ValueError(
            f"{metric} takes one score per example, [B], and labels of the same shape; {found}. "
            "With two classes measure the second's probability: "
            "`metric._replace(measure=lambda p, b, m: metric.measure(jax.nn.softmax(p)[:, 1], b, m))`"
        )


def ratio(statistic) -> jax.Array:
    """`sum / count` in float32; NaN for 0/0.

    Example:
      >>> ratio((jnp.array(3), jnp.array(4))), ratio((jnp.array(0), jnp.array(0)))
      (Array(0.75, dtype=float32), Array(nan, dtype=float32))
    """
    total, count = statistic
    return total.astype(jnp.float32) / count.astype(jnp.float32)
