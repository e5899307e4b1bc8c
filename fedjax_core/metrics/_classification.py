"""Metrics of classifiers."""

import jax.numpy as jnp

from fedjax_core import _checks
from fedjax_core.contracts import Metric
from fedjax_core.metrics import _labels


def accuracy(label: str = "y") -> Metric:
    """The fraction of examples whose label has the highest score.

    Among equal highest scores the lowest class counts, as in `jnp.argmax`. An example with a
    NaN among its scores, or with a label outside `0..C-1`, counts as wrong.

    Args:
      label: the batch's field of labels, integers `[B]`.

    Returns:
      A `Metric` of predictions (logits or probabilities) `[B, C]`. Its statistic is
      `(correct, count)`, int32 `[]` each; its value `correct / count`, float32 `[]`, NaN without examples.

    Raises:
      TypeError, ValueError: when measured, if the dtypes or shapes do not fit.

    Example:
      >>> metric = accuracy()
      >>> scores = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.0, 0.0]])
      >>> mask = jnp.array([True, True, False])
      >>> float(metric.finalize(metric.measure(scores, {"y": jnp.array([1, 1, 0])}, mask)))
      0.5
    """
    return _top("accuracy", 1, label)


def top_k_accuracy(k: int, label: str = "y") -> Metric:
    """The fraction of examples whose label is among the `k` highest scores.

    Of equal scores the lower class comes first, as in `jax.lax.top_k`, so that `top_k_accuracy(1)`
    equals `accuracy()`. If `k` is at least the number of classes, all examples count as right, except that an
    example with a NaN among its scores, or with a label outside `0..C-1`, always counts as wrong.

    Args:
      k: the number of highest scores that count, a positive integer.
      label: the batch's field of labels, integers `[B]`.

    Returns:
      A `Metric` of predictions (logits or probabilities) `[B, C]`. Its statistic is
      `(correct, count)`, int32 `[]` each; its value `correct / count`, float32 `[]`, NaN without examples.

    Raises:
      TypeError: `k` is not an integer; when measured, if the labels are not integers.
      ValueError: `k` is not positive; when measured, if the shapes do not fit.

    Example:
      >>> metric = top_k_accuracy(2)
      >>> scores = jnp.array([[0.1, 0.7, 0.2], [0.1, 0.7, 0.2]])
      >>> mask = jnp.array([True, True])
      >>> float(metric.finalize(metric.measure(scores, {"y": jnp.array([2, 0])}, mask)))
      0.5
    """
    _checks.check_integer("top_k_accuracy(k=...)", k, 1, "write k=5")
    return _top("top_k_accuracy", k, label)


def _top(name, k, label):
    def measure(predictions, batch, mask):
        labels = batch[label]
        _labels.check_labels(name, predictions, labels, label, "B")
        correct = mask & _labels.among_top(predictions, labels, k)
        return jnp.sum(correct, dtype=jnp.int32), jnp.sum(mask, dtype=jnp.int32)

    return Metric(measure, _labels.ratio)


def confusion_matrix(label: str = "y") -> Metric:
    """The number of examples of each class that were predicted as each class.

    Among equal highest scores the lowest class is predicted. An example with a NaN among its scores, or with
    a label outside `0..C-1`, has no place in the matrix and is left out.

    Args:
      label: the batch's field of labels, integers `[B]`.

    Returns:
      A `Metric` of predictions (logits or probabilities) `[B, C]`. Its statistic and value are the
      matrix, int32 `[C, C]`: row `i`, column `j` counts the examples of class `i` that were predicted as `j`;
      2**31 - 1 stands for all larger totals.

    Raises:
      TypeError, ValueError: when measured, if the dtypes or shapes do not fit.

    Example:
      >>> metric = confusion_matrix()
      >>> scores = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
      >>> print(metric.finalize(metric.measure(scores, {"y": jnp.array([1, 0, 0])}, jnp.ones(3, bool))))
      [[1 1]
       [0 1]]
    """

    def measure(predictions, batch, mask):
        labels = batch[label]
        _labels.check_labels("confusion_matrix", predictions, labels, label, "B")
        actual = _labels.one_hot(labels, mask, predictions.shape[-1])
        predicted = _labels.one_hot_predictions(predictions, mask)
        # A batch has fewer than 2**24 examples, so float32 counts them exactly.
        return (actual.astype(jnp.float32).T @ predicted.astype(jnp.float32)).astype(jnp.int32)

    return Metric(measure, lambda statistic: statistic)
