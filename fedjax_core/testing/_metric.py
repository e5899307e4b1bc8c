"""The laws of metrics."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import trees
from fedjax_core.contracts import Metric
from fedjax_core.testing._laws import chosen, compare, hold, sentences

_FEWEST = 4


class _Measured:
    """A metric and a batch of `B` examples, some of which are padding.

    Attributes:
      metric: the metric.
      measure: its `measure`, compiled.
      examples: `(predictions, batch)`.
      mask: bool `[B]`.
      tolerance: the relative and absolute tolerance of floats.
    """

    def __init__(self, metric: Metric, predictions: Any, batch: Any, mask: Any, tolerance: float):
        self.metric = metric
        self.measure = jax.jit(metric.measure)
        self.examples = jax.tree.map(lambda x: np.asarray(jnp.asarray(x)), (predictions, batch))
        self.mask = _checked_mask(self.examples, None if mask is None else np.asarray(mask, bool))
        self.tolerance = tolerance

    @functools.cached_property
    def whole(self) -> Any:
        """The statistic of the batch."""
        return self.measure(*self.examples, self.mask)

    def uncompiled(self, examples: Any) -> Any:
        """The statistic of a batch with this mask, computed without compilation, operation by operation."""
        return self.metric.measure(*jax.tree.map(jnp.asarray, (*examples, self.mask)))


def _checked_mask(examples: Any, mask: np.ndarray | None) -> np.ndarray:
    sizes = {len(leaf) if leaf.ndim else None for leaf in jax.tree.leaves((examples, mask))}
    size = next(iter(sizes)) if len(sizes) == 1 else None
    if size is None or size < _FEWEST:
        raise ValueError(
            f"check_metric(metric, predictions, batch) takes arrays with one row per example and at least {_FEWEST} "
            f"examples, got {sorted(map(str, sizes))} rows"
        )
    checked = np.arange(size) % 3 != 1 if mask is None else mask
    if checked.all() or checked.sum() < 2:
        raise ValueError(
            f"check_metric(mask=...) must be False for some examples and True for at least two, got {checked.tolist()}"
        )
    return checked


def _padding(measured: _Measured):
    """The content of masked rows, even NaN or the dtype's largest integer, does not change a bit."""
    spoiled = jax.tree.map(lambda x: _with_rubbish(x, ~measured.mask), measured.examples)
    # Not compiled: XLA may turn a product with a mask into a selection, and `nan * 0` would then be 0.
    compare(measured.uncompiled(measured.examples), measured.uncompiled(spoiled))


def _width(measured: _Measured):
    """A larger batch, whose first rows are padding, gives the same statistic."""
    size = len(measured.mask)
    rows = np.concatenate([np.zeros(size // 2, int), np.arange(size)])
    wide = _rows(measured.examples, rows)
    mask = np.concatenate([np.zeros(size // 2, bool), measured.mask])
    compare(measured.whole, measured.measure(*wide, mask), measured.tolerance)


def _additive(measured: _Measured):
    """The statistics of two parts of a batch, or of two clients, add up to the statistic of the whole."""
    size = len(measured.mask)
    half = (size + 1) // 2
    rows = [np.arange(half), np.minimum(np.arange(half, 2 * half), size - 1)]
    masks = [measured.mask[:half], np.resize(measured.mask[half:], half) & (np.arange(half) < size - half)]
    parts = [measured.measure(*_rows(measured.examples, r), m) for r, m in zip(rows, masks)]
    compare(measured.whole, trees.add(*parts), measured.tolerance)


def _statistic(measured: _Measured):
    """A statistic consists of numbers whose shapes and dtypes do not depend on the batch size, known or not."""
    expected = jax.tree.map(_abstract, measured.whole)
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        if not jnp.issubdtype(leaf.dtype, jnp.number):
            raise AssertionError(f"{jax.tree_util.keystr(path)}: expected a number, found {leaf}")
    (unknown,) = jax.export.symbolic_shape("b")
    for size in (1, 2 * len(measured.mask), unknown):
        found = jax.tree.map(_abstract, jax.eval_shape(measured.metric.measure, *_sized(measured, size)))
        if found != expected:
            raise AssertionError(f"expected {expected}, for {size} examples found {found}")


def _sized(measured: _Measured, size: Any) -> tuple:
    """Abstract arguments of `measure` for a batch of this size."""

    def sized(x):
        return jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)

    return jax.tree.map(sized, (*measured.examples, measured.mask))


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _zero_of_nobody(measured: _Measured):
    """The statistic of no examples is zero, like that of a client without batches."""
    found = measured.measure(*measured.examples, np.zeros_like(measured.mask))
    compare(jax.tree.map(np.asarray, trees.zeros_like(measured.whole)), found, 0.0)


def _nan_of_nobody(measured: _Measured):
    """The floating point value of no examples is NaN, not a made-up number."""
    value = measured.metric.finalize(trees.zeros_like(measured.whole))
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isnan(leaf).all():
            raise AssertionError(f"{jax.tree_util.keystr(path)}: expected NaN, found {leaf}")


def _compiled(measured: _Measured):
    """Both functions can be compiled and then return the same."""
    expected = measured.uncompiled(measured.examples)
    compare(expected, measured.whole, measured.tolerance)
    finalize = measured.metric.finalize
    compare(finalize(expected), jax.jit(finalize)(expected), measured.tolerance)


def _rows(examples: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda x: x[rows], examples)


def _with_rubbish(x: np.ndarray, where: np.ndarray) -> np.ndarray:
    x = x.copy()
    if jnp.issubdtype(x.dtype, jnp.inexact):
        x[where] = np.nan
    elif jnp.issubdtype(x.dtype, jnp.integer):
        x[where] = jnp.iinfo(x.dtype).max
    else:
        x[where] = ~x[where]
    return x


_LAWS = {
    "padding": _padding,
    "width": _width,
    "additive": _additive,
    "statistic": _statistic,
    "zero_of_nobody": _zero_of_nobody,
    "nan_of_nobody": _nan_of_nobody,
    "compiled": _compiled,
}

METRIC_LAWS = sentences(_LAWS)
"""The laws of metrics: the name and the sentence of each."""


def check_metric(
    metric: Metric,
    predictions: Any,
    batch: Any,
    mask: Any = None,
    *,
    laws: Iterable[str] | str = METRIC_LAWS,
    tolerance: float = 1e-5,
) -> None:
    """Checks that a metric keeps the laws that allow the engine to pad, batch and add up in any way.

    Args:
      metric: the metric.
      predictions: a pytree of arrays `[B, ...]`, the predictions of a model for `batch`; None if the metric
        does not read them.
      batch: a pytree of arrays `[B, ...]`, at least four examples.
      mask: bool `[B]`; None masks every third example.
      laws: the names of the laws, from `METRIC_LAWS`. If your metric breaks a law by design, leave it out:
        `laws=METRIC_LAWS.keys() - {"additive"}` for a metric that counts batches.
      tolerance: the relative and absolute tolerance of floats where the order of sums changes.

    Raises:
      AssertionError: a law is broken. The message has the name, the sentence and the difference of every broken law.
      ValueError: a name in `laws` is not a law, the arrays have different numbers of rows or too few, or the mask
        does not leave at least two examples and mask one.
      TypeError: `metric` is not a `Metric`.

    Example: means of parts do not add up, so dividing in `measure` is too early.

    >>> def measure(predictions, batch, mask):
    ...     errors = jnp.where(mask, jnp.abs(predictions - batch["y"]), 0.0)
    ...     return jnp.sum(errors) / jnp.maximum(mask.sum(), 1), jnp.any(mask).astype("float32")
    >>> metric = Metric(measure, lambda statistic: statistic[0] / statistic[1])
    >>> check_metric(metric, np.arange(6.0), {"y": np.zeros(6)}, laws=["additive", "width"])
    Traceback (most recent call last):
    AssertionError: the metric breaks 1 of 2 laws
    additive: The statistics of two parts of a batch, or of two clients, add up to the statistic of the whole.
      [0]: expected 2.5, found 5.0
    """
    if not isinstance(metric, Metric):
        raise TypeError(f"check_metric takes a Metric, got {metric!r}; call it: fc.metrics.accuracy()")
    names = chosen("check_metric", laws, _LAWS)
    hold("the metric", _LAWS, names, _Measured(metric, predictions, batch, mask, tolerance))
