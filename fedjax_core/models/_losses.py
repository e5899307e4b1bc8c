"""Losses of the single examples, `(predictions, batch) -> [B]`, as a model needs them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedjax_core.language.graph import IntegerRange
from fedjax_core.models import _arguments

Loss = Callable[[jax.Array, dict], jax.Array]


def cross_entropy(label: str = "y") -> Loss:
    """Softmax cross entropy with integer labels.

    `loss = logsumexp(z) - z[label]` for the logits `z` of an example.

    A label outside `0..C-1` is refused where a cohort is read (see `EngineConfig(check_ranges=...)`). Where that is
    switched off, the loss and its gradient are NaN, so the round leaves the client out and counts it.

    Args:
      label: the batch field with the labels, integers `[B]`.

    Returns:
      `loss(predictions, batch)`: from logits, floating point `[B, C]`, to losses `[B]` of the same dtype. It raises
      `ValueError` for other shapes, and `TypeError` for labels that are not integers.

    Example:
      >>> loss = cross_entropy()
      >>> loss(jnp.zeros((2, 4)), {"y": jnp.array([0, 3])})
      Array([1.3862944, 1.3862944], dtype=float32)
    """

    def loss(predictions, batch):
        labels = batch[label]
        _arguments.check_labels("cross_entropy", predictions, labels, label)
        if jnp.ndim(labels) != 1:
            raise ValueError(
                f"cross_entropy takes one label per example, labels of shape [B]; got batch[{label!r}] of "
                f"shape {jnp.shape(labels)}; for sequences use `sequence_cross_entropy()`"
            )
        return _label_losses(predictions, labels)

    return _with_range(loss, label)


def sequence_cross_entropy(label: str = "y", pad: int | None = 0) -> Loss:
    """Softmax cross entropy of a sequence of tokens: the sum over its tokens, divided by `T`.

    Padding counts as zero and `T` is the padded length, so every token of a batch has the same weight, whatever the
    length of its sequence, and an empty sequence has the loss 0. (The character models of FedJAX and of the FedAvg
    paper do the same. For the mean over the tokens without padding, take the logarithm of the metric `perplexity`.)

    Args:
      label: the batch field with the tokens, integers `[B, T]`. Tokens outside `0..V-1` other than `pad` give NaN,
        as in `cross_entropy`.
      pad: the padding token; None if there is none.

    Returns:
      `loss(predictions, batch)`: from logits, floating point `[B, T, V]`, to losses `[B]` of the same dtype. It raises
      `ValueError` for other shapes, and `TypeError` for tokens that are not integers.

    Example: four equally likely tokens at two positions, one of which is padding.
      >>> loss = sequence_cross_entropy()
      >>> loss(jnp.zeros((1, 2, 4)), {"y": jnp.array([[3, 0]])})
      Array([0.6931472], dtype=float32)
    """

    def loss(predictions, batch):
        tokens = batch[label]
        _arguments.check_labels("sequence_cross_entropy", predictions, tokens, label)
        if jnp.ndim(tokens) != 2:
            raise ValueError(
                f"sequence_cross_entropy takes one sequence per example, labels of shape [B, T]; got "
                f"batch[{label!r}] of shape {jnp.shape(tokens)}; for one label per example use `cross_entropy()`"
            )
        if pad is None:
            return jnp.mean(_label_losses(predictions, tokens), axis=1)
        kept = tokens != pad
        losses = _label_losses(predictions, jnp.where(kept, tokens, 0))
        return jnp.mean(jnp.where(kept, losses, 0), axis=1)

    return _with_range(loss, label, pad)


def squared_error(label: str = "y") -> Loss:
    """Squared error, averaged over the components of an example.

    Args:
      label: the batch field with the target values, `[B, ...]`, in the shape of the predictions.

    Returns:
      `loss(predictions, batch)`: from predictions, floating point `[B, ...]`, to losses `[B]`. It raises `ValueError`
      if the shapes differ: they do not broadcast, since `[B, 1]` against `[B]` would become `[B, B]`.

    Example:
      >>> loss = squared_error()
      >>> loss(jnp.array([1.0, 2.0]), {"y": jnp.array([1.0, 5.0])})
      Array([0., 9.], dtype=float32)
    """

    def loss(predictions, batch):
        values = batch[label]
        if jnp.shape(predictions) != jnp.shape(values):
            raise ValueError(
                f"squared_error takes predictions with the shape of batch[{label!r}], {jnp.shape(values)}, got "
                f"{jnp.shape(predictions)}; for predictions of shape [B, 1] return `output[:, 0]`"
            )
        errors = jnp.square(predictions - values)
        return jnp.mean(errors, axis=tuple(range(1, errors.ndim)))

    return loss


def _with_range(loss: Loss, label: str, also: int | None = None) -> Loss:
    """The loss, which declares its range of labels for `model_calls.integer_ranges`."""

    def integer_ranges(predictions):
        return (IntegerRange(label, 0, predictions.shape[-1] - 1, also),)

    loss.integer_ranges = integer_ranges  # pyright: ignore[reportFunctionMemberAccess]
    return loss


def _label_losses(logits, labels):
    known = (labels >= 0) & (labels < logits.shape[-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, labels, 0))
    return losses * jnp.where(known, 1.0, jnp.nan)
