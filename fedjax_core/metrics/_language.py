"""Metrics of language models, over the tokens of sequences.

Tokens are counted in float32: exactly up to 2**24, and with rounding beyond, instead of wrapping around as int32 would.
"""

import numbers
from collections.abc import Iterable

import jax.numpy as jnp
import optax

from fedjax_core.contracts import Metric
from fedjax_core.metrics import _labels


def token_accuracy(ignored: Iterable[int] = (0,), label: str = "y") -> Metric:
    """The fraction of tokens whose label has the highest score.

    Among equal highest scores the lowest token counts. A position with a NaN among its scores, or with a
    label outside `0..V-1` that is not ignored, counts as wrong.

    Args:
      ignored: labels that are not counted, such as padding.
      label: the batch's field of labels, integers `[B, T]`.

    Returns:
      A `Metric` of predictions (logits or probabilities) `[B, T, V]`. Its statistic is
      `(correct, count)`, float32 `[]` each; its value `correct / count`, float32 `[]`, NaN without tokens.

    Raises:
      TypeError: `ignored` are not integers; when measured, if the labels are not integers.
      ValueError: when measured, if the shapes do not fit.

    Example: the last of three positions is padding.
      >>> metric = token_accuracy()
      >>> scores = jnp.array([[[0.0, 0.9, 0.1], [0.0, 0.9, 0.1], [0.9, 0.0, 0.1]]])
      >>> float(metric.finalize(metric.measure(scores, {"y": jnp.array([[1, 2, 0]])}, jnp.array([True]))))
      0.5
    """
    ignored = _tokens("token_accuracy(ignored=...)", ignored)

    def measure(predictions, batch, mask):
        labels = batch[label]
        _labels.check_labels("token_accuracy", predictions, labels, label, "B, T")
        kept = _kept(labels, ignored, mask)
        correct = kept & _labels.among_top(predictions, labels, 1)
        return jnp.sum(correct, dtype=jnp.float32), jnp.sum(kept, dtype=jnp.float32)

    return Metric(measure, _labels.ratio)


def perplexity(ignored: Iterable[int] = (0,), label: str = "y") -> Metric:
    """The exponential of the mean cross entropy per token.

    A label outside `0..V-1` that is not ignored makes it NaN.

    Args:
      ignored: labels that are not counted, such as padding.
      label: the batch's field of labels, integers `[B, T]`.

    Returns:
      A `Metric` of predictions (logits) `[B, T, V]`. Its statistic is `(sum, count)`, float32 `[]` each: the
      summed cross entropy and the number of tokens; its value `exp(sum / count)`, float32 `[]`, NaN without tokens.

    Raises:
      TypeError: `ignored` are not integers; when measured, if the labels are not integers.
      ValueError: when measured, if the shapes do not fit.

    Example: four equally likely tokens.
      >>> metric = perplexity()
      >>> statistic = metric.measure(jnp.zeros((1, 2, 4)), {"y": jnp.array([[3, 0]])}, jnp.array([True]))
      >>> print(f"{metric.finalize(statistic):.4f}")
      4.0000
    """
    ignored = _tokens("perplexity(ignored=...)", ignored)

    def measure(predictions, batch, mask):
        labels = batch[label]
        _labels.check_labels("perplexity", predictions, labels, label, "B, T")
        kept = _kept(labels, ignored, mask)
        known = (labels >= 0) & (labels < predictions.shape[-1])
        logits = predictions.astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, labels, 0))
        total = jnp.sum(jnp.where(kept, jnp.where(known, losses, jnp.nan), 0))
        return total, jnp.sum(kept, dtype=jnp.float32)

    return Metric(measure, lambda statistic: jnp.exp(_labels.ratio(statistic)))


def out_of_vocabulary_rate(symbols: Iterable[int], ignored: Iterable[int] = (0,), label: str = "y") -> Metric:
    """The fraction of tokens that stand for words outside the vocabulary.

    Args:
      symbols: the tokens that stand for such words, for example the buckets of unknown words; any number of
        them. A token in both `symbols` and `ignored` is ignored.
      ignored: labels that are not counted, such as padding.
      label: the batch's field of tokens, integers `[B, T]`.

    Returns:
      A `Metric` that ignores the predictions. Its statistic is `(out of vocabulary, count)`, float32
      `[]` each; its value their quotient, float32 `[]`, NaN without tokens.

    Raises:
      TypeError: `symbols` or `ignored` are not integers; when measured, if the tokens are not integers.
      ValueError: when measured, if the tokens are not `[B, T]`.

    Example: two of three tokens are outside the vocabulary, and the last position is padding.
      >>> metric = out_of_vocabulary_rate(symbols=(98, 99))
      >>> statistic = metric.measure(None, {"y": jnp.array([[99, 5, 98, 0]])}, jnp.array([True]))
      >>> print(f"{metric.finalize(statistic):.3f}")
      0.667
    """
    symbols = _tokens("out_of_vocabulary_rate(symbols=...)", symbols)
    ignored = _tokens("out_of_vocabulary_rate(ignored=...)", ignored)

    def measure(predictions, batch, mask):
        tokens = batch[label]
        _labels.check_integers("out_of_vocabulary_rate", tokens, label, "B, T")
        kept = _kept(tokens, ignored, mask)
        found = kept & _is_one_of(tokens, symbols)
        return jnp.sum(found, dtype=jnp.float32), jnp.sum(kept, dtype=jnp.float32)

    return Metric(measure, _labels.ratio)


def _kept(labels, ignored, mask):
    return mask[:, None] & ~_is_one_of(labels, ignored)


def _is_one_of(labels, symbols):
    found = jnp.zeros(jnp.shape(labels), bool)
    for symbol in symbols:
        found |= labels == symbol
    return found


def _tokens(what: str, given) -> tuple[int, ...]:
    tokens = tuple(given) if isinstance(given, Iterable) else None
    if tokens is None or not all(isinstance(t, numbers.Integral) and not isinstance(t, bool) for t in tokens):
        raise TypeError(f"{what} must be a tuple of integers such as (0,), got {given!r}")
    return tokens
