"""Argument checks of this room."""

import jax.numpy as jnp

from fedjax_core import _checks


def check_positive(function: str, **sizes) -> None:
    """Raises unless every size is a positive integer.

    Args:
      function: the name of the function, for error messages.
      **sizes: the arguments by name.

    Raises:
      TypeError: a size is not an integer (a bool does not count as one).
      ValueError: a size is not positive.

    Example:
      >>> check_positive("mlp", num_features=0)
      Traceback (most recent call last):
      ValueError: mlp(num_features=...) must be an integer of at least 1, got 0; write num_features=10
    """
    for name, size in sizes.items():
        _checks.check_integer(f"{function}({name}=...)", size, 1, f"write {name}=10")


def check_labels(function: str, predictions, labels, label: str) -> None:
    """Raises unless the labels are integers and `predictions` holds a score per class for each of them.

    Args:
      function: the name of the function, for error messages.
      predictions: should have the shape `[..., C]`.
      labels: should be integers `[...]`.
      label: the name of the batch field that holds the labels.

    Raises:
      TypeError: the labels are not integers.
      ValueError: the shapes do not fit each other.

    Example:
      >>> check_labels("cross_entropy", jnp.zeros((5, 3)), jnp.zeros((5, 1), int), "y")
      Traceback (most recent call last):
      ValueError: cross_entropy takes one score per class for each label, predictions of shape
        [..., C] for labels of shape [...]; got predictions of shape (5, 3) and batch['y'] of shape (5, 1)
    """
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise TypeError(
            f"{function} takes integer labels, got {jnp.result_type(labels)} in batch[{label!r}]; "
            "for one-hot labels pass their argmax, for real values use `squared_error()`"
        )
    if jnp.shape(predictions)[:-1] != jnp.shape(labels) or jnp.ndim(predictions) == 0:
        raise ValueError(
            f"{function} takes one score per class for each label, predictions of shape [..., C] for "
            f"labels of shape [...]; got predictions of shape {jnp.shape(predictions)} and "
            f"batch[{label!r}] of shape {jnp.shape(labels)}"
        )
