"""Precision, recall and their harmonic mean, from counts of true positives, predictions and labels by class."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_core import _checks
from fedjax_core.contracts import Metric
from fedjax_core.metrics import _labels

_AVERAGES = ("binary", "micro", "macro", "weighted", "per_class")


def precision(average: str = "binary", *, threshold: float = 0.5, multilabel: bool = False, label: str = "y") -> Metric:
    r"""The fraction of the examples predicted as a class that belong to it: :math:`TP / (TP + FP)`.

    The quotient is NaN for a class that is never predicted, and the averages "macro" and
    "weighted" are over the classes where it is defined. An example with a NaN among its scores is
    predicted as no class; an example with a label outside the classes is a false positive of the predicted class.

    Args:
      average: "binary" for one score per example, which is positive from `threshold` on. The others are for one
        score per class, where the highest is predicted (among equal scores, the lowest class): "per_class" for
        separate values; "macro" for their mean; "weighted" for their mean weighted by the number of labels of
        each class; "micro" for the quotient of the counts summed over the classes.
      threshold: for "binary" and `multilabel` only; 0.5 suits probabilities, 0.0 logits.
      multilabel: whether an example may belong to several classes. Scores and labels are then `[B, C]`, an example is
        predicted as every class whose score is at least `threshold`, and "micro" or "binary" is the value of all
        `B * C` labels as one list.
      label: the batch's field of labels, integers `[B]`; for "binary", 1 is positive and all else negative, and so for
        each of the labels `[B, C]` with `multilabel`.

    Returns:
      A `Metric` of predictions `[B]` ("binary") or `[B, C]`. Its statistic is `(true positives,
      predicted, labelled)`, int32 `[]` ("binary") or `[C]` each; its value float32 `[]`, or `[C]`
      for "per_class", NaN without examples.

    Raises:
      ValueError: `average` is none of these; when measured, if the shapes do not fit.
      TypeError: `average` is not a string, `threshold` is not a number, or `multilabel` is not a bool; when measured,
        if the labels are not integers (or booleans for "binary" and `multilabel`).

    Example:
      >>> metric = precision()
      >>> batch = {"y": jnp.array([1, 0, 1, 1])}
      >>> statistic = metric.measure(jnp.array([0.9, 0.8, 0.2, 0.7]), batch, jnp.ones(4, bool))
      >>> print(f"{metric.finalize(statistic):.3f}")
      0.667

    The same four labels, of two examples that may each belong to two classes:

      >>> metric = precision("micro", multilabel=True)
      >>> batch = {"y": jnp.array([[1, 0], [1, 1]])}
      >>> statistic = metric.measure(jnp.array([[0.9, 0.8], [0.2, 0.7]]), batch, jnp.ones(2, bool))
      >>> print(f"{metric.finalize(statistic):.3f}")
      0.667
    """
    return _metric(
        "precision", lambda hits, predicted, actual: (hits, predicted), average, threshold, multilabel, label
    )


def recall(average: str = "binary", *, threshold: float = 0.5, multilabel: bool = False, label: str = "y") -> Metric:
    r"""The fraction of the examples of a class that are predicted as it: :math:`TP / (TP + FN)`.

    Args, statistic and errors are those of `precision`. It is undefined, and thus NaN, for a class without
    labels.

    Example: the mean over two classes, one always found and the other half of the time.
      >>> metric = recall("macro")
      >>> scores = jnp.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
      >>> print(metric.finalize(metric.measure(scores, {"y": jnp.array([0, 1, 1])}, jnp.ones(3, bool))))
      0.75
    """

    def quotient(hits, predicted, actual):
        return hits, actual

    return _metric("recall", quotient, average, threshold, multilabel, label)


def f1(average: str = "binary", *, threshold: float = 0.5, multilabel: bool = False, label: str = "y") -> Metric:
    r"""The harmonic mean of precision and recall: :math:`2 TP / (2 TP + FP + FN)`.

    Args, statistic and errors are those of `precision`. It is undefined, and thus NaN, for a class that is
    neither predicted nor labelled.

    Example:
      >>> metric = f1("per_class")
      >>> scores = jnp.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
      >>> print(metric.finalize(metric.measure(scores, {"y": jnp.array([0, 1, 1])}, jnp.ones(3, bool))))
      [0.6666667 0.6666667]
    """
    return _metric(
        "f1", lambda hits, predicted, actual: (2 * hits, predicted + actual), average, threshold, multilabel, label
    )


def _metric(name: str, quotient: Callable, average: str, threshold: float, multilabel: bool, label: str) -> Metric:
    _checks.check_choice(f"{name}(average=...)", average, _AVERAGES, "write average='macro'")
    _checks.checked_number(f"{name}(threshold=...)", threshold, _checks.FINITE, "write threshold=0.5")
    multilabel = _checks.checked_switch(f"{name}(multilabel=...)", multilabel, "write multilabel=True")
    if average == "binary" or multilabel:
        count = _count_binary(name, threshold, label, multilabel)
    else:
        count = _count_classes(name, label)

    def finalize(statistic):
        counts = [part.astype(jnp.float32) for part in statistic]
        if average in ("micro", "binary"):
            counts = [jnp.sum(part) for part in counts]
        numerator, denominator = quotient(*counts)
        values = numerator / denominator
        if average not in ("macro", "weighted"):
            return values
        defined = denominator > 0
        weights = jnp.where(defined, counts[2] if average == "weighted" else 1.0, 0.0)
        return jnp.sum(jnp.where(defined, values, 0.0) * weights) / jnp.sum(weights)

    return Metric(count, finalize)


def _count_binary(name: str, threshold: float, label: str, multilabel: bool) -> Callable:
    def measure(predictions, batch, mask):
        labels = batch[label]
        if not multilabel:
            _check_one_label(name, predictions, labels, label)
        _labels.check_binary(name, predictions, labels, label, multilabel)
        mask = mask[:, None] if multilabel else mask
        return _counts(mask & (predictions >= threshold), mask & (labels == 1))

    return measure


def _count_classes(name: str, label: str) -> Callable:
    def measure(predictions, batch, mask):
        labels = batch[label]
        _check_one_label(name, predictions, labels, label)
        _labels.check_labels(name, predictions, labels, label, "B")
        actual = _labels.one_hot(labels, mask, predictions.shape[-1])
        return _counts(_labels.one_hot_predictions(predictions, mask), actual)

    return measure


def _check_one_label(name: str, predictions, labels, label: str) -> None:
    """Raises ValueError for labels that hold as many classes for an example as there are scores."""
    if jnp.ndim(labels) == 2 and jnp.shape(labels) == jnp.shape(predictions):
        raise ValueError(
            f"{name} takes one label for each example, [B], got batch[{label!r}] of shape {jnp.shape(labels)}; for "
            f"several classes per example write {name}(..., multilabel=True), for one-hot labels give their argmax"
        )


def _counts(predicted: jax.Array, actual: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    both, predicted, actual = (jnp.sum(k, axis=0, dtype=jnp.int32) for k in (predicted & actual, predicted, actual))
    return both, predicted, actual
