"""Metrics of language models, over the tokens of sequences.

The tokens of means are counted in float32: exactly up to 2**24, and with rounding beyond, instead of wrapping around as
int32 would.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import optax

from fedjax_core import _checks
from fedjax_core.contracts import Metric
from fedjax_core.metrics import _labels, _tokens


def token_accuracy(
    ignored: Iterable[int] = (0,), label: str = "y", *, k: int = 1, per_position: bool = False
) -> Metric:
    """The fraction of tokens whose label has the highest score, or is among the `k` highest.

    Among equal scores the lowest token comes first. A position with a NaN among its scores, or with a
    label outside `0..V-1` that is not ignored, counts as wrong. To leave tokens out of the predictions, measure scores
    that are `-inf` for them: `metric._replace(measure=lambda p, b, m: metric.measure(p + logits_mask, b, m))`.

    Args:
      ignored: labels that are not counted, such as padding.
      label: the batch's field of labels, integers `[B, T]`.
      k: the number of highest scores that count.
      per_position: whether to give the accuracy of each position `0..T-1` of the sequences.

    Returns:
      A `Metric` of predictions (logits or probabilities) `[B, T, V]`. Its statistic is
      `(correct, count)`, float32 `[]` each; its value `correct / count`, float32 `[]`, NaN without tokens. All of them
      are `[T]` with `per_position`.

    Raises:
      TypeError: `ignored` are not integers, `k` is not an integer, or `per_position` is not a bool; when measured, if
        the labels are not integers.
      ValueError: `k` is not positive; when measured, if the shapes do not fit.

    Example: the last of three positions is padding.
      >>> metric = token_accuracy()
      >>> scores = jnp.array([[[0.0, 0.9, 0.1], [0.0, 0.9, 0.1], [0.9, 0.0, 0.1]]])
      >>> float(metric.finalize(metric.measure(scores, {"y": jnp.array([[1, 2, 0]])}, jnp.array([True]))))
      0.5
    """
    ignored = _tokens.checked("token_accuracy(ignored=...)", ignored)
    axis = _summed_axis("token_accuracy", per_position)
    _checks.check_integer("token_accuracy(k=...)", k, 1, "write k=5")

    def measure(predictions, batch, mask):
        labels = batch[label]
        _labels.check_labels("token_accuracy", predictions, labels, label, "B, T")
        kept = _tokens.kept(labels, ignored, mask)
        return _sums(axis, kept & _labels.among_top(predictions, labels, k), kept)

    return Metric(measure, _labels.ratio)


def perplexity(ignored: Iterable[int] = (0,), label: str = "y", *, per_position: bool = False) -> Metric:
    """The exponential of the mean cross entropy per token.

    A label outside `0..V-1` that is not ignored makes it NaN.

    Args:
      ignored: labels that are not counted, such as padding.
      label: the batch's field of labels, integers `[B, T]`.
      per_position: whether to give the perplexity of each position `0..T-1` of the sequences.

    Returns:
      A `Metric` of predictions (logits) `[B, T, V]`. Its statistic is `(sum, count)`, float32 `[]` each: the
      summed cross entropy and the number of tokens; its value `exp(sum / count)`, float32 `[]`, NaN without tokens. All
      of them are `[T]` with `per_position`.

    Raises:
      TypeError: `ignored` are not integers, or `per_position` is not a bool; when measured, if the labels are not
        integers.
      ValueError: when measured, if the shapes do not fit.

    Example: four equally likely tokens.
      >>> metric = perplexity()
      >>> statistic = metric.measure(jnp.zeros((1, 2, 4)), {"y": jnp.array([[3, 0]])}, jnp.array([True]))
      >>> print(f"{metric.finalize(statistic):.4f}")
      4.0000
    """
    ignored = _tokens.checked("perplexity(ignored=...)", ignored)
    axis = _summed_axis("perplexity", per_position)

    def measure(predictions, batch, mask):
        labels = batch[label]
        _labels.check_labels("perplexity", predictions, labels, label, "B, T")
        kept = _tokens.kept(labels, ignored, mask)
        known = (labels >= 0) & (labels < predictions.shape[-1])
        logits = predictions.astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, labels, 0))
        return _sums(axis, jnp.where(kept, jnp.where(known, losses, jnp.nan), 0), kept)

    return Metric(measure, lambda statistic: jnp.exp(_labels.ratio(statistic)))


def out_of_vocabulary_rate(
    symbols: Iterable[int], ignored: Iterable[int] = (0,), label: str = "y", *, per_position: bool = False
) -> Metric:
    """The fraction of tokens that stand for words outside the vocabulary.

    Args:
      symbols: the tokens that stand for such words, for example the buckets of unknown words; any number of
        them. A token in both `symbols` and `ignored` is ignored.
      ignored: labels that are not counted, such as padding.
      label: the batch's field of tokens, integers `[B, T]`.
      per_position: whether to give the rate of each position `0..T-1` of the sequences.

    Returns:
      A `Metric` that ignores the predictions. Its statistic is `(out of vocabulary, count)`, float32
      `[]` each; its value their quotient, float32 `[]`, NaN without tokens. All of them are `[T]` with `per_position`.

    Raises:
      TypeError: `symbols` or `ignored` are not integers, or `per_position` is not a bool; when measured, if the tokens
        are not integers.
      ValueError: when measured, if the tokens are not `[B, T]`.

    Example: two of three tokens are outside the vocabulary, and the last position is padding.
      >>> metric = out_of_vocabulary_rate(symbols=(98, 99))
      >>> statistic = metric.measure(None, {"y": jnp.array([[99, 5, 98, 0]])}, jnp.array([True]))
      >>> print(f"{metric.finalize(statistic):.3f}")
      0.667
    """
    symbols = _tokens.checked("out_of_vocabulary_rate(symbols=...)", symbols)
    ignored = _tokens.checked("out_of_vocabulary_rate(ignored=...)", ignored)
    axis = _summed_axis("out_of_vocabulary_rate", per_position)

    def measure(predictions, batch, mask):
        tokens = batch[label]
        _labels.check_integers("out_of_vocabulary_rate", tokens, label, "B, T")
        kept = _tokens.kept(tokens, ignored, mask)
        return _sums(axis, kept & _tokens.is_one_of(tokens, symbols), kept)

    return Metric(measure, _labels.ratio)


def _summed_axis(name: str, per_position: bool) -> int | None:
    """The axis over which tokens are summed: that of the sequences only, or both."""
    repair = "write per_position=True for a value at each position"
    return 0 if _checks.checked_switch(f"{name}(per_position=...)", per_position, repair) else None


def _sums(axis: int | None, values, kept) -> tuple[jax.Array, jax.Array]:
    return jnp.sum(values, axis, dtype=jnp.float32), jnp.sum(kept, axis, dtype=jnp.float32)
