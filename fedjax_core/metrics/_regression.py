"""Metrics of regression."""

from collections.abc import Callable

import jax.numpy as jnp

from fedjax_core import _checks
from fedjax_core.contracts import Metric
from fedjax_core.metrics import _labels

_RESOLVED = 1e-4
"""The smallest variance, as a fraction of the mean square about the center, that float32 sums distinguish from zero."""


def mean_absolute_error(label: str = "y") -> Metric:
    r"""The mean of :math:`|y - \hat y|` over examples and outputs.

    Args:
      label: the batch's field of labels, real `[B, ...]`.

    Returns:
      A `Metric` of predictions `[B, ...]`, of the labels' shape. Its statistic is `(sum, count)`, float32
      and int32 `[]`: the sum of the errors and the number of outputs compared; its value `sum / count`,
      float32 `[]`, NaN without examples.

    Raises:
      TypeError, ValueError: when measured, if the dtypes or shapes do not fit.

    Example:
      >>> metric = mean_absolute_error()
      >>> batch = {"y": jnp.array([1.0, 2.0, 3.0])}
      >>> print(metric.finalize(metric.measure(jnp.array([1.5, 2.0, 9.0]), batch, jnp.array([True, True, False]))))
      0.25
    """
    return _mean("mean_absolute_error", jnp.abs, label)


def mean_squared_error(label: str = "y") -> Metric:
    r"""The mean of :math:`(y - \hat y)^2` over examples and outputs.

    Args:
      label: the batch's field of labels, real `[B, ...]`.

    Returns:
      A `Metric` of predictions `[B, ...]`, of the labels' shape. Its statistic is `(sum, count)`, float32
      and int32 `[]`: the sum of the squared errors and the number of outputs compared; its value
      `sum / count`, float32 `[]`, NaN without examples.

    Raises:
      TypeError, ValueError: when measured, if the dtypes or shapes do not fit.

    Example:
      >>> metric = mean_squared_error()
      >>> batch = {"y": jnp.array([1.0, 2.0, 3.0])}
      >>> print(metric.finalize(metric.measure(jnp.array([1.5, 2.0, 9.0]), batch, jnp.array([True, True, False]))))
      0.125
    """
    return _mean("mean_squared_error", jnp.square, label)


def r_squared(center: float = 0.0, *, label: str = "y") -> Metric:
    r"""The fraction of the labels' variance that is predicted, :math:`1 - \sum (y - \hat y)^2 / \sum (y - \bar y)^2`.

    The mean :math:`\bar y` is unknown before the sums are, so the denominator is formed from
    sums of :math:`d = y - c`, as :math:`\sum d^2 - (\sum d)^2 / n`. If `c` is far from the mean, these
    two cancel: the relative error is about 1e-7 times :math:`\overline{d^2} / \mathrm{var}(y)`. If the variance is
    below 1e-4 of the mean square of `d`, float32 cannot distinguish the value from noise, and it is NaN rather
    than a wrong number: give a `center` near the labels.

    Args:
      center: `c`, a number near the mean of the labels, the same for all clients.
      label: the batch's field of labels, real `[B, ...]`.

    Returns:
      A `Metric` of predictions `[B, ...]`, of the labels' shape. Its statistic is `(count, sum of d, sum
      of d squared, sum of squared errors)`, int32 `[]` and three times float32 `[...]`; its value the mean
      over the outputs, float32 `[]`, NaN without examples and for labels that are all the same.

    Raises:
      TypeError: `center` is not a number; when measured, if the dtypes do not fit.
      ValueError: when measured, if the shapes do not fit.

    Example: years, which vary little compared with their size.
      >>> metric = r_squared(center=2000.0)
      >>> batch = {"y": jnp.array([1999.0, 2001.0, 2003.0])}
      >>> print(metric.finalize(metric.measure(jnp.array([1999.0, 2001.0, 2002.0]), batch, jnp.ones(3, bool))))
      0.875

    References:
      Chan, Golub and LeVeque 1983, Algorithms for Computing the Sample Variance: Analysis and
      Recommendations (the textbook algorithm with shifted data).
    """
    repair = "write a number near the mean of the labels"
    _checks.checked_number("r_squared(center=...)", center, _checks.FINITE, repair)

    def measure(predictions, batch, mask):
        errors, kept = _errors("r_squared", predictions, batch[label], label, mask)
        deviations = jnp.where(kept, _wide(batch[label]) - center, 0).astype(jnp.float32)
        sums = (jnp.sum(terms, axis=0) for terms in (deviations, deviations**2, errors**2))
        return jnp.sum(mask, dtype=jnp.int32), *sums

    def finalize(statistic):
        count, first, second, residual = statistic
        total = second - first**2 / count.astype(jnp.float32)
        resolved = total > _RESOLVED * second
        return jnp.mean(jnp.where(resolved, 1 - residual / jnp.where(resolved, total, 1), jnp.nan))

    return Metric(measure, finalize)


def _mean(name: str, of_error: Callable, label: str) -> Metric:
    def measure(predictions, batch, mask):
        errors, kept = _errors(name, predictions, batch[label], label, mask)
        return jnp.sum(of_error(errors)), jnp.sum(kept, dtype=jnp.int32)

    return Metric(measure, _labels.ratio)


def _errors(name: str, predictions, labels, label: str, mask):
    """Labels minus predictions, float32 `[B, ...]`, zero on padding; and the mask in that shape."""
    for what, array in (("predictions", predictions), (f"batch[{label!r}]", labels)):
        dtype = jnp.result_type(array)
        if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
            raise TypeError(f"{name} compares real numbers, got {dtype} in {what}; convert it to float32")
    if jnp.shape(predictions) != jnp.shape(labels) or jnp.ndim(labels) == 0:
        raise ValueError(
            f"{name} compares predictions and labels of one shape, [B, ...], got predictions of shape "
            f"{jnp.shape(predictions)} and batch[{label!r}] of shape {jnp.shape(labels)}; if the predictions have an "
            "axis too many, measure `predictions[:, 0]`"
        )
    kept = jnp.broadcast_to(jnp.expand_dims(mask, tuple(range(1, jnp.ndim(labels)))), jnp.shape(labels))
    return jnp.where(kept, _wide(labels) - _wide(predictions), 0).astype(jnp.float32), kept


def _wide(x):
    """The numbers in float32 at least."""
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))
