"""Clipping: limits the norm of each client's update to a bound."""

import functools
import math

import jax
import jax.numpy as jnp

from fedjax_core import _checks, trees
from fedjax_core.aggregators._arguments import check_entries, inner_or_mean
from fedjax_core.aggregators._bounds import as_bound, bounded
from fedjax_core.contracts import Aggregator
from fedjax_core.templates import EstimationProcess


def clip_by_norm(
    max_norm: float | EstimationProcess, inner: Aggregator | None = None, *, order: float = 2
) -> Aggregator:
    r"""Scales a client's value :math:`v` down to :math:`v \min(1, c / \|v\|)` before `inner` sees it.

    The norm is the L2 norm of all entries of all leaves together, in float32, unless `order` says otherwise. A client
    whose norm or weight is not finite contributes zero with weight zero, as in a round, and is counted: its value has
    a NaN, an infinity, or a norm beyond 3.4e38, which float32 cannot hold. A value within the bound
    passes bit for bit.

    Args:
      max_norm: the bound :math:`c`, positive; infinity clips nothing. Or an `EstimationProcess` that
        reports the bound, for example `quantile_estimate`: adaptive clipping. It receives the clients'
        norms before clipping, and NaN for clients whose weight is zero.
      inner: the aggregator of the clipped values; None is `mean()`.
      order: the norm: 2; 1 for the sum of the absolute entries; or `math.inf` for the largest absolute entry. With
        each of them the whole value is scaled, so that its direction stays.

    Returns:
      An `Aggregator` of floating point values. State: `max_norm`, the state of the bound's process, and
      `inner`. Measurements: `max_norm`, float32, the bound of this round; `num_clipped` and
      `num_non_finite`, int32, numbers of clients, exact and without noise; `inner`.

    Raises:
      TypeError: an argument is of the wrong kind; when built for a value, if it is not floating point.
      ValueError: `max_norm` is not positive, or `order` is another number.

    Example:

    >>> import fedjax_core as fc
    >>> process = fc.aggregators.as_process(clip_by_norm(1.0), "float32[2]")
    >>> output = process.next(process.initialize(), [[3.0, 4.0], [0.0, 0.5]], [1.0, 1.0])
    >>> print(output.result, output.measurements["num_clipped"])
    [0.3  0.65] 1

    The same clients, clipped by their largest entries:

    >>> process = fc.aggregators.as_process(clip_by_norm(1.0, order=math.inf), "float32[2]")
    >>> print(process.next(process.initialize(), [[3.0, 4.0], [0.0, 0.5]], [1.0, 1.0]).result)
    [0.375 0.75 ]

    Clipping to the 80th percentile of the norms, estimated from round to round:

    >>> adaptive = clip_by_norm(fc.aggregators.quantile_estimate(1.0, 0.8, 0.2))

    References:
      Andrew et al. 2021, Differentially Private Learning with Adaptive Clipping, arXiv:1905.03871.
    """
    inner = inner_or_mean("clip_by_norm", inner)
    repair = "to disable clipping leave it out: fed_avg(..., aggregator=fc.aggregators.mean())"
    bound = as_bound("clip_by_norm(max_norm=...)", max_norm, repair)
    order = _checks.checked_number("clip_by_norm(order=...)", order, _ORDER, "write order=2")
    norm = norm_without_overflow if order == 2 else functools.partial(trees.norm, order=order)
    clipped = bounded(inner, bound, ("max_norm", "num_clipped"), norm, scale_to)

    def init(value_type):
        check_entries("clip_by_norm", value_type, "floating point values", (jnp.inexact,))
        return clipped.init(value_type)

    return clipped._replace(init=init)


_SCALE = 2.0**-80  # exact, and small enough for the squares of 2**32 entries of the largest float32


def norm_without_overflow(tree) -> jax.Array:
    """The L2 norm, float32 `[]`, also where it fits float32 and the squares of the entries do not.

    Example:
      >>> print(norm_without_overflow(jnp.array([3.0, 4.0]) * 2.0**125) / 2.0**125)
      5.0
    """
    # A scale that is known only at run time: XLA takes a constant out of the squares, which then overflow after all.
    small = jnp.where(jnp.isinf(trees.squared_norm(tree)), jnp.float32(_SCALE), jnp.float32(1.0))
    return trees.norm([jnp.multiply(leaf, small) for leaf in jax.tree.leaves(tree)]) / small


_ORDER = _checks.Rule("1, 2 or math.inf", lambda order: order in (1, 2, math.inf))


def scale_to(tree, norm, max_norm):
    """`tree`, whose norm is given, scaled down to `max_norm` if it is longer, and otherwise unchanged bit for bit.

    A norm that has overflowed float32 to infinity scales the tree to zero; a bound that is NaN makes it NaN.
    The entries of a norm far beyond the bound are scaled in two steps, since one factor would be zero in float32.

    Example:
      >>> print(scale_to({"w": jnp.array([3.0, 4.0])}, 5.0, 1.0)["w"])
      [0.6 0.8]
    """
    over = jnp.logical_not(norm <= max_norm)
    first = jnp.where(over & (norm > 2.0**64), 2.0**-64, 1.0)
    factor = jnp.where(over, max_norm / jnp.where(over, norm * first, 1.0), 1.0)  # with a gradient for a norm of zero
    return trees.scale(trees.scale(tree, first), factor)
