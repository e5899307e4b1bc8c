"""Losses for each example, `(predictions, batch) -> [B]`, to be given to a model."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedjax_core.models import _arguments

Loss = Callable[[jax.Array, dict], jax.Array]


def cross_entropy(label: str = "y") -> Loss:
    """Softmax cross entropy with integer labels.

    `loss = logsumexp(z) - z[label]` for the logits `z` of an example.

    A label outside of `0..C-1` gives NaN, the gradient too, so that the round leaves the client out and
    counts it, and does not train it on a wrong class.

    Args:
      label: the batch's field of labels, integers `[B]`.

    Returns:
      `loss(predictions, batch)`: from logits, floating point `[B, C]`, to losses `[B]` of the same
      dtype. It raises `ValueError` where the shapes, `TypeError` where the dtypes are others.

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
                f"cross_entropy takes one label an example, labels of shape [B]; got batch[{label!r}] of "
                f"shape {jnp.shape(labels)}; for sequences use `sequence_cross_entropy()`"
            )
        return _label_losses(predictions, labels)

    return loss


def sequence_cross_entropy(label: str = "y", pad: int | None = 0) -> Loss:
    """Softmax cross entropy of a sequence of tokens: the sum over its tokens, divided by `T`.

    Padding counts as zero and `T` is the padded length, so that every token of a batch weighs the
    same, whatever the length of its sequence, and an empty sequence has the loss 0.
    (FedJAX's and the FedAvg paper's character models do the same. The mean over the tokens
    alone is the metric `perplexity`'s logarithm.)

    Args:
      label: the batch's field of tokens, integers `[B, T]`. Tokens outside of `0..V-1` other than
        `pad` give NaN, as in `cross_entropy`.
      pad: the token that stands for no token; None if there is none.

    Returns:
      `loss(predictions, batch)`: from logits, floating point `[B, T, V]`, to losses `[B]` of the same
      dtype. It raises `ValueError` where the shapes, `TypeError` where the dtypes are others.

    Example: four equally likely tokens, of two positions one is padding.
      >>> loss = sequence_cross_entropy()
      >>> loss(jnp.zeros((1, 2, 4)), {"y": jnp.array([[3, 0]])})
      Array([0.6931472], dtype=float32)
    """

    def loss(predictions, batch):
        tokens = batch[label]
        _arguments.check_labels("sequence_cross_entropy", predictions, tokens, label)
        if jnp.ndim(tokens) != 2:
            raise ValueError(
                f"sequence_cross_entropy takes one sequence an example, labels of shape [B, T]; got "
                f"batch[{label!r}] of shape {jnp.shape(tokens)}; for one label an example use `cross_entropy()`"
            )
        if pad is None:
            return jnp.mean(_label_losses(predictions, tokens), axis=1)
        kept = tokens != pad
        losses = _label_losses(predictions, jnp.where(kept, tokens, 0))
        return jnp.mean(jnp.where(kept, losses, 0), axis=1)

    return loss


def squared_error(label: str = "y") -> Loss:
    """Squared error, averaged over the components of an example.

    Args:
      label: the batch's field of values, `[B, ...]`, of the predictions' shape.

    Returns:
      `loss(predictions, batch)`: from predictions, floating point `[B, ...]`, to losses `[B]`. It
      raises `ValueError` where the shapes differ (they are not broadcast: `[B, 1]` against `[B]`
      would become `[B, B]`).

    Example:
      >>> loss = squared_error()
      >>> loss(jnp.array([1.0, 2.0]), {"y": jnp.array([1.0, 5.0])})
      Array([0., 9.], dtype=float32)
    """

    def loss(predictions, batch):
        values = batch[label]
        if jnp.shape(predictions) != jnp.shape(values):
            raise ValueError(
                f"squared_error takes predictions of the shape of batch[{label!r}], {jnp.shape(values)}, got "
                f"{jnp.shape(predictions)}; for predictions of shape [B, 1] return `output[:, 0]`"
            )
        errors = jnp.square(predictions - values)
        return jnp.mean(errors, axis=tuple(range(1, errors.ndim)))

    return loss


def _label_losses(logits, labels):
    known = (labels >= 0) & (labels < logits.shape[-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, labels, 0))
    return losses * jnp.where(known, 1.0, jnp.nan)
