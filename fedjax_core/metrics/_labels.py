"""Comparing class scores with integer labels."""

import jax
import jax.numpy as jnp


def check_labels(metric: str, predictions, labels, label: str, axes: str) -> None:
    """Raises unless `predictions` holds one score a class for every integer of `labels`.

    Args:
      metric: the name to show in the message.
      predictions: should be floating point `[..., C]`.
      labels: should be integers `[...]`.
      label: the name of the batch field that `labels` was.
      axes: the axes that labels should have, such as "B, T".

    Raises:
      TypeError: the labels are not integers.
      ValueError: the shapes do not belong together.

    Example:
      >>> check_labels("accuracy", jnp.zeros((5, 3)), jnp.zeros((5, 1), int), "y", "B")
      Traceback (most recent call last):
      ValueError: accuracy compares scores of shape [B, C] with labels of shape [B]; got predictions of
        shape (5, 3) and batch['y'] of shape (5, 1)
    """
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise TypeError(
            f"{metric} compares with integer labels, got {jnp.result_type(labels)} in batch[{label!r}]; "
            f"name the field of integers: `{metric}(label=...)`"
        )
    rank = axes.count(",") + 1
    if jnp.ndim(labels) != rank or jnp.shape(predictions)[:-1] != jnp.shape(labels):
        raise ValueError(
            f"{metric} compares scores of shape [{axes}, C] with labels of shape [{axes}]; got predictions "
            f"of shape {jnp.shape(predictions)} and batch[{label!r}] of shape {jnp.shape(labels)}"
        )


def among_top(scores: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Whether the label is among the `k` highest scores.

    Args:
      scores: floating point `[..., C]`.
      labels: integers `[...]`.
      k: how many scores count. Of equal scores the lower class comes first, as in `jnp.argmax` and
        `jax.lax.top_k`.

    Returns:
      bool `[...]`; False where the label is outside of `0..C-1` or any of the scores is NaN.

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


def ratio(statistic) -> jax.Array:
    """`sum / count` in float32; NaN for 0/0.

    Example:
      >>> ratio((jnp.array(3), jnp.array(4))), ratio((jnp.array(0), jnp.array(0)))
      (Array(0.75, dtype=float32), Array(nan, dtype=float32))
    """
    total, count = statistic
    return total.astype(jnp.float32) / count.astype(jnp.float32)
