"""What the functions of this room ask of their arguments."""

import jax.numpy as jnp

from fedjax_core import _checks


def check_positive(function: str, **sizes) -> None:
    """Raises unless every size is a positive integer.

    Args:
      function: the name to show in the message.
      **sizes: the arguments by name.

    Raises:
      TypeError: a size is not an integer (a bool is none).
      ValueError: a size is not positive.

    Example:
      >>> check_positive("mlp", num_features=0)
      Traceback (most recent call last):
      ValueError: mlp(num_features=...) must be an integer of at least 1, got 0; write num_features=10
    """
    for name, size in sizes.items():
        _checks.check_integer(f"{function}({name}=...)", size, 1, f"write {name}=10")


def check_labels(function: str, predictions, labels, label: str) -> None:
    """Raises unless `predictions` holds one score a class for every integer of `labels`.

    Args:
      function: the name to show in the message.
      predictions: should be floating point `[..., C]`.
      labels: should be integers `[...]`.
      label: the name of the batch field that `labels` was.

    Raises:
      TypeError: the labels are not integers.
      ValueError: the shapes do not belong together.

    Example:
      >>> check_labels("cross_entropy", jnp.zeros((5, 3)), jnp.zeros((5, 1), int), "y")
      Traceback (most recent call last):
      ValueError: cross_entropy takes one score a class for each label, predictions of shape
        [..., C] for labels of shape [...]; got predictions of shape (5, 3) and batch['y'] of shape (5, 1)
    """
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise TypeError(
            f"{function} takes integer labels, got {jnp.result_type(labels)} in batch[{label!r}]; "
            "for one-hot labels use their argmax, for real values `squared_error()`"
        )
    if jnp.shape(predictions)[:-1] != jnp.shape(labels) or jnp.ndim(predictions) == 0:
        raise ValueError(
            f"{function} takes one score a class for each label, predictions of shape [..., C] for "
            f"labels of shape [...]; got predictions of shape {jnp.shape(predictions)} and "
            f"batch[{label!r}] of shape {jnp.shape(labels)}"
        )
