"""Counts of tokens and sequences, as integers."""

from collections.abc import Callable, Iterable

import jax.numpy as jnp

from fedjax_core import _checks
from fedjax_core.contracts import Metric
from fedjax_core.metrics import _labels, _tokens


def num_tokens(ignored: Iterable[int] = (0,), label: str = "y") -> Metric:
    """The number of tokens.

    Args:
      ignored: labels that are not counted, such as padding.
      label: the batch's field of tokens, integers `[B, T]`.

    Returns:
      A `Metric` that ignores the predictions. Its statistic and value are the count, int32 `[]`; 2**31 - 1 stands for
      all larger totals.

    Raises:
      TypeError: `ignored` are not integers; when measured, if the tokens are not integers.
      ValueError: when measured, if the tokens are not `[B, T]`.

    Example:
      >>> metric = num_tokens(ignored=(0, 2))
      >>> print(metric.finalize(metric.measure(None, {"y": jnp.array([[1, 2, 2, 3, 4, 0, 0]])}, jnp.array([True]))))
      3
    """
    return Metric(_measured("num_tokens", ignored, label, lambda tokens, kept: jnp.sum(kept, dtype=jnp.int32)), _itself)


def num_sequences(ignored: Iterable[int] = (0,), label: str = "y") -> Metric:
    """The number of sequences that have a token.

    Args, statistic and errors are those of `num_tokens`.

    Example: the second sequence is empty.
      >>> metric = num_sequences()
      >>> print(metric.finalize(metric.measure(None, {"y": jnp.array([[1, 2, 0], [0, 0, 0]])}, jnp.ones(2, bool))))
      1
    """
    return Metric(_measured("num_sequences", ignored, label, lambda tokens, kept: _number(kept)), _itself)


def sequence_length(ignored: Iterable[int] = (0,), label: str = "y") -> Metric:
    """The mean number of tokens of a sequence; sequences without a token are not counted.

    Args:
      ignored: labels that are not counted, such as padding.
      label: the batch's field of tokens, integers `[B, T]`.

    Returns:
      A `Metric` that ignores the predictions. Its statistic is `(tokens, sequences)`, int32 `[]` each; its value their
      quotient, float32 `[]`, NaN without sequences.

    Raises:
      TypeError: `ignored` are not integers; when measured, if the tokens are not integers.
      ValueError: when measured, if the tokens are not `[B, T]`.

    Example:
      >>> metric = sequence_length()
      >>> tokens = jnp.array([[1, 2, 3, 4, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
      >>> print(metric.finalize(metric.measure(None, {"y": tokens}, jnp.ones(3, bool))))
      2.5
    """

    def count(tokens, kept):
        return jnp.sum(kept, dtype=jnp.int32), _number(kept)

    return Metric(_measured("sequence_length", ignored, label, count), _labels.ratio)


def truncation_rate(end: int, ignored: Iterable[int] = (0,), label: str = "y") -> Metric:
    """The fraction of sequences that were cut off: they have a token, but none that marks the end.

    Args:
      end: the token that marks the end of a sequence.
      ignored: labels that are not counted, such as padding.
      label: the batch's field of tokens, integers `[B, T]`.

    Returns:
      A `Metric` that ignores the predictions. Its statistic is `(truncated, sequences)`, int32 `[]` each; its value
      their quotient, float32 `[]`, NaN without sequences.

    Raises:
      TypeError: `end` or `ignored` are not integers; when measured, if the tokens are not integers.
      ValueError: `end` is negative or ignored; when measured, if the tokens are not `[B, T]`.

    Example: the first sequence ends with 4, the second is cut off, and the third is empty.
      >>> metric = truncation_rate(end=4)
      >>> tokens = jnp.array([[1, 2, 4, 0], [1, 2, 2, 3], [0, 0, 0, 0]])
      >>> print(metric.finalize(metric.measure(None, {"y": tokens}, jnp.ones(3, bool))))
      0.5
    """
    end = _checks.checked_integer("truncation_rate(end=...)", end, 0, "give the number of the token")
    ignored = _tokens.checked("truncation_rate(ignored=...)", ignored)
    if end in ignored:
        rule, repair = "a token that is not ignored", f"leave {end} out of ignored={ignored}"
        raise ValueError(_checks.message("truncation_rate(end=...)", rule, end, repair))

    def count(tokens, kept):
        has_end = jnp.any(tokens == end, axis=1, keepdims=True)
        return _number(kept & ~has_end), _number(kept)

    return Metric(_measured("truncation_rate", ignored, label, count), _labels.ratio)


def _measured(name: str, ignored: Iterable[int], label: str, count: Callable) -> Callable:
    """A `measure` that gives `count(tokens, kept)`, where `kept` says which tokens count."""
    ignored = _tokens.checked(f"{name}(ignored=...)", ignored)

    def measure(predictions, batch, mask):
        tokens = batch[label]
        _labels.check_integers(name, tokens, label, "B, T")
        return count(tokens, _tokens.kept(tokens, ignored, mask))

    return measure


def _number(kept):
    """The number of sequences with a token that counts."""
    return jnp.sum(jnp.any(kept, axis=1), dtype=jnp.int32)


def _itself(statistic):
    return statistic
