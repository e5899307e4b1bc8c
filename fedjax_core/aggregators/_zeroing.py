"""Zeroing: an update that is far too large counts as zero."""

import functools
from collections.abc import Callable

import jax.numpy as jnp

from fedjax_core import _checks, trees
from fedjax_core.aggregators._arguments import inner_or_mean
from fedjax_core.aggregators._bounds import as_bound, bounded
from fedjax_core.aggregators._entries import largest_entry
from fedjax_core.contracts import Aggregator
from fedjax_core.templates import EstimationProcess


def zero_large(
    threshold: float | EstimationProcess, inner: Aggregator | None = None, *, norm: Callable | None = None
) -> Aggregator:
    r"""Replaces a client's value by zero, before `inner` sees it, if its norm is over a threshold.

    It protects against corrupt data; for data that are merely unusual there is `clip_by_norm`. The norm
    is the largest absolute entry, :math:`\|v\|_\infty`, as in TFF's zeroing. As in TFF, a client that is
    zeroed keeps its weight, so it draws a mean toward zero. A client with a NaN or infinity in its value
    or its weight contributes zero with weight zero, as in a round, and is counted; so does one whose
    `norm` is not finite. All other values pass bit for bit.

    Args:
      threshold: positive; infinity zeroes nothing. Or an `EstimationProcess` that reports the threshold, for
        example one made from `quantile_estimate`. It receives the clients' norms before zeroing, and NaN for
        clients whose weight is zero.
      inner: the aggregator of the values; None is `mean()`.
      norm: `(value) -> float32 []`, in place of the largest absolute entry; `fc.trees.norm` is L2, and
        `functools.partial(fc.trees.norm, order=1)` is L1.

    Returns:
      An `Aggregator`. State: `threshold`, the state of the threshold's process, and `inner`. Measurements:
      `threshold`, float32, the threshold of this round; `num_zeroed` and `num_non_finite`, int32, numbers of
      clients, exact and without noise; `inner`.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: `threshold` is not positive.

    Example:

    >>> import fedjax_core as fc
    >>> process = fc.aggregators.as_process(zero_large(10.0), "float32[2]")
    >>> output = process.next(process.initialize(), [[3.0, 4.0], [0.0, -1e20]], [1.0, 1.0])
    >>> print(output.result, output.measurements["num_zeroed"])
    [1.5 2. ] 1
    """
    inner = inner_or_mean("zero_large", inner)
    if norm is not None:
        _checks.check_function("zero_large(norm=...)", norm, "of the value", "L2 is fc.trees.norm")
    repair = "to disable zeroing leave it out: fed_avg(..., aggregator=fc.aggregators.mean())"
    bound = as_bound("zero_large(threshold=...)", threshold, repair)
    size = functools.partial(_norm_if_finite, norm) if norm else largest_entry
    return bounded(inner, bound, ("threshold", "num_zeroed"), size, _zero_over)


def _norm_if_finite(norm: Callable, value):
    """The norm, or NaN if an entry is not finite, even one that the user's norm ignores."""
    return jnp.where(trees.is_finite(value), norm(value), jnp.nan)


def _zero_over(value, norm, threshold):
    return trees.where(norm <= threshold, value, trees.zeros_like(value))
